"""Log-probabilities of completions, and their gradients, against the full logits of each sequence alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_model
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForCausalLM

from kto_bench.component import ConfigError
from kto_bench.training import attention
from kto_bench.training.logprobs import Scorer

PROMPTS = [[1, 5, 9, 7], [1, 6], [1, 30, 31, 32, 33, 34, 35], [4]]
COMPLETIONS = [[10, 11, 2], [12, 13, 14, 15, 16, 2], [2], [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 2]]
VOCABULARY = 64

# What scales or caps logits and what bounds attention is set so that ignoring it changes the numbers.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "llama, tied": {"tie_word_embeddings": True},
    "gpt_neox": {},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
        "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 0.5,
    },
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "phi": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"n_inner": 48},
    "bloom": {},
}
PADDED_ONLY = {"bloom"}
each_model = pytest.mark.parametrize("name", MODELS)
each_layout = pytest.mark.parametrize("padding_free", [None, False], ids=["packed", "padded"])


def build(name: str, **changes: Any) -> Any:
    """Two layers of width 32. Biases and norms are no zeros and ones, and weights large enough to matter."""
    torch.manual_seed(0)
    config = tiny_config(
        name.partition(",")[0],
        vocab_size=VOCABULARY,
        **({} if name in ("gpt2", "bloom", "opt") else {"intermediate_size": 48}),
        **{**MODELS.get(name, {}), **changes},
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def one_by_one(model: Any) -> torch.Tensor:
    """log pi(y_t | x, y_<t) from the logits of each unpadded sequence, sequence by sequence."""
    rows = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        log_probs = model(input_ids=torch.tensor([prompt + completion])).logits[0].float().log_softmax(-1)
        start = len(prompt) - 1
        rows.append(torch.stack([log_probs[start + i, token] for i, token in enumerate(completion)]))
    return torch.cat(rows)


def weighted(log_probs: torch.Tensor) -> torch.Tensor:
    """A sum in which every token counts differently, so that a gradient at the wrong place shows."""
    return (log_probs * torch.linspace(-1, 2, len(log_probs))).sum()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def score(model: Any, **options: Any) -> torch.Tensor:
    log_probs, mask = Scorer(model, 0, **options)(PROMPTS, COMPLETIONS)
    return log_probs[mask]


@contextmanager
def head_inputs(model: Any) -> Iterator[list[torch.Tensor]]:
    """Every batch of hidden states that reaches the output head."""
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(("positions", "checkpointing"), [(1, False), (5, False), (1000, False), (5, True)])
@each_layout
@each_model
def test_values_and_gradients_are_those_of_the_full_logits(
    name: str, padding_free: bool | None, positions: int, checkpointing: bool
) -> None:
    ours, full = build(name), build(name)
    expected = one_by_one(full)
    weighted(expected).backward()
    if checkpointing:
        ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in ours.modules():
            for rate in [key for key, value in vars(module).items() if "drop" in key and isinstance(value, float)]:
                setattr(module, rate, 0.0)
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        ours.train()
    scorer = Scorer(ours, 0, padding_free=padding_free, max_logits=positions * VOCABULARY)
    assert scorer.packed == (padding_free is None and name not in PADDED_ONLY)
    assert ours.training == checkpointing
    log_probs, mask = scorer(PROMPTS, COMPLETIONS)
    assert mask.tolist() == [[column < len(completion) for column in range(12)] for completion in COMPLETIONS]
    assert log_probs.dtype == torch.float32
    assert (log_probs[~mask] == 0).all()
    torch.testing.assert_close(log_probs[mask], expected, atol=1e-5, rtol=1e-5)
    weighted(log_probs[mask]).backward()
    want = gradients(full)
    assert gradients(ours).keys() == want.keys()
    for key, gradient in gradients(ours).items():
        torch.testing.assert_close(
            gradient, want[key], atol=1e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("mistral", {"sliding_window": None}),
        ("gemma2", {"final_logit_softcapping": None}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("cohere", {"logit_scale": 1.0}),
        ("granite", {"logits_scaling": 1.0}),
        ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    ],
)
def test_the_settings_above_matter(name: str, ignored: dict[str, Any]) -> None:
    """Else the test before could not see them ignored."""
    model, other = build(name), build(name, **ignored)
    assert (score(model) - score(other)).abs().max() > 1e-2


def test_a_bias_of_the_head_matters() -> None:
    model = build("phi")
    before = score(model)
    torch.nn.init.zeros_(model.lm_head.bias)
    assert (score(model) - before).abs().max() > 1e-2


@each_layout
def test_the_same_in_any_batch(padding_free: bool | None) -> None:
    scorer = Scorer(tiny_model(), 0, padding_free=padding_free)
    with torch.no_grad():
        together, mask = scorer(PROMPTS, COMPLETIONS)
        for row in range(len(PROMPTS)):
            alone, _ = scorer(PROMPTS[row : row + 1], COMPLETIONS[row : row + 1])
            torch.testing.assert_close(together[row][mask[row]], alone[0], atol=1e-5, rtol=1e-5)


@each_layout
@pytest.mark.parametrize("positions", [1, 4, 1000])
def test_only_positions_that_predict_completions_reach_the_head(padding_free: bool | None, positions: int) -> None:
    model = tiny_model()
    scorer = Scorer(model, 0, padding_free=padding_free, max_logits=positions * VOCABULARY + VOCABULARY - 1)
    tokens = sum(map(len, COMPLETIONS))
    with head_inputs(model) as seen:
        log_probs, mask = scorer(PROMPTS, COMPLETIONS)
        forward = [states.shape[-2] for states in seen]
        log_probs[mask].sum().backward()
    assert sum(forward) == tokens
    assert max(states.shape[-2] for states in seen) == min(positions, tokens)
    # In the backward pass chunks are computed again, none larger; one chunk is kept instead.
    assert sum(states.shape[-2] for states in seen) == (tokens if positions == 1000 else 2 * tokens)


@each_layout
def test_the_outputs_are_no_views(padding_free: bool | None) -> None:
    outputs = Scorer(tiny_model(), 0, padding_free=padding_free)(PROMPTS, COMPLETIONS)
    assert isinstance(outputs, tuple)
    assert [output._is_view() for output in outputs] == [False, False]


def test_weights_and_modes_are_left_alone() -> None:
    model = tiny_model().train()
    model.model.layers[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Scorer(model, 0)
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "forward" not in vars(model.get_decoder())
    assert not gradients(model)


def long_tailed(count: int) -> tuple[list[list[int]], list[list[int]]]:
    draw = np.random.default_rng(0)

    def lengths(median: int) -> np.ndarray:
        return np.clip(np.exp(draw.normal(np.log(median), 0.8, count)), 1, 300).astype(int)

    prompts, completions = lengths(37), lengths(60)
    return [[5] * length for length in prompts], [[6] * length for length in completions]


def test_padding_is_small_on_lengths_with_a_long_tail() -> None:
    prompts, completions = long_tailed(64)
    counts = {}
    for padding_free in (None, False):
        model = tiny_model("llama")
        model.config.max_position_embeddings = 1024
        scorer = Scorer(model, 0, padding_free=padding_free)
        assert scorer.computed_positions == 0  # the trial at the start is not counted
        with torch.no_grad():
            scorer(prompts, completions)
        counts[padding_free] = (scorer.real_positions, scorer.computed_positions)
    inputs = sum(len(p) + len(c) - 1 for p, c in zip(prompts, completions, strict=True))
    assert counts[None] == (inputs, inputs)
    real, computed = counts[False]
    assert real == inputs
    assert 1.0 < computed / real < 1.1
    scorer.reset_counts()
    assert (scorer.real_positions, scorer.computed_positions) == (0, 0)


def test_bf16_layouts_agree_to_their_rounding() -> None:
    """Weights in fp32 under autocast, and weights in bf16."""
    expected = one_by_one(build("llama"))
    for dtype, precision in ((torch.float32, "bf16"), (torch.bfloat16, "fp32")):
        got = {free: score(build("llama").to(dtype), precision=precision, padding_free=free) for free in (None, False)}
        for log_probs in got.values():
            assert log_probs.dtype == torch.float32
            torch.testing.assert_close(log_probs, expected, atol=5e-2, rtol=2e-2)
            assert (log_probs - expected).abs().max() > 1e-5  # it was bf16
        torch.testing.assert_close(got[None], got[False], atol=5e-2, rtol=2e-2)


@pytest.mark.parametrize("name", ["bloom", "lfm2"])
def test_models_that_cannot_be_packed(name: str) -> None:
    """A model with positions of its own, and one with convolutions that would run from a sequence into the next."""
    changes = {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]} if name == "lfm2" else {}
    model = build(name, **changes)
    scorer = Scorer(model, 0)
    assert not scorer.packed
    log_probs, mask = scorer(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(log_probs[mask], one_by_one(model), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=rf"train\.padding_free: true .* {name} model .* leave it at null"):
        Scorer(model, 0, padding_free=True)


def test_a_sequence_that_reads_another_by_little_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention over the whole row, in weights so small that hidden states hardly change."""
    model = build("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(2e-5)
    honest = attention._one_by_one

    def leaking(query: Any, key: Any, value: Any, packing: Any, *options: Any) -> Any:
        whole = attention.Packing((sum(packing.lengths),), packing.bounds)
        return honest(query, key, value, whole, *options)

    assert Scorer(model, 0).packed
    monkeypatch.setattr(attention, "_one_by_one", leaking)
    assert not Scorer(model, 0).packed


def test_a_model_whose_head_is_more_than_its_hidden_states_is_refused() -> None:
    model = tiny_model()
    forward = type(model).forward

    def other(*args: Any, **inputs: Any) -> Any:
        """Logits that depend on the input ids."""
        output = forward(model, *args, **inputs)
        output.logits = output.logits + inputs["input_ids"].float().unsqueeze(-1)
        return output

    model.forward = other
    with pytest.raises(ConfigError, match=r"does not support models of type 'llama'.*another architecture"):
        Scorer(model, 0)


def test_a_second_scorer_of_the_same_model_may_choose_otherwise() -> None:
    model = tiny_model()
    packed = score(model)
    padded = Scorer(model, 0, padding_free=False)
    assert not padded.packed
    log_probs, mask = padded(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(log_probs[mask], packed, atol=1e-5, rtol=1e-5)


def test_the_model_itself_refuses_to_run_while_it_is_packed() -> None:
    """Its attention would ignore the padding mask."""
    model = tiny_model()
    before = model(input_ids=torch.tensor([[1, 2, 3]])).logits
    Scorer(model, 0)
    with pytest.raises(RuntimeError, match="set_attn_implementation"):
        model(input_ids=torch.tensor([[1, 2, 3]]))
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(input_ids=torch.tensor([[1, 2, 3]])).logits, before)


def test_compiled_layers_give_the_same_and_compile_once() -> None:
    torch._dynamo.reset()
    model, plain = build("llama"), build("llama")
    counter = CompileCounter()
    scorer, reference = Scorer(model, 0), Scorer(plain, 0)
    assert scorer.packed
    for layer in model.model.layers:
        layer.compile(dynamic=True, backend=counter)
    frames = []
    for count in (4, 3, 2, 4, 1):
        log_probs, mask = scorer(PROMPTS[:count], COMPLETIONS[:count])
        expected, _ = reference(PROMPTS[:count], COMPLETIONS[:count])
        torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-5)
        log_probs[mask].sum().backward()
        expected[mask].sum().backward()
        frames.append(counter.frame_count)
    torch._dynamo.reset()
    assert frames[0] > 0
    assert frames[-1] == frames[1]
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, gradients(plain)[key], atol=1e-5, rtol=1e-4)


def test_a_window_that_the_attention_is_not_told_is_not_packed() -> None:
    """The trial's sequences are inside any window. Llama's layers know of none, Mistral's pass theirs on."""
    llama, mistral = tiny_model("llama"), tiny_model("mistral")
    assert Scorer(mistral, 0).packed
    llama.config.sliding_window = 64
    assert not Scorer(llama, 0).packed


def test_what_a_kernel_elsewhere_cannot_do_is_known_beforehand() -> None:
    """Sharded weights are on the CPU when the layout is chosen, and on GPUs afterwards."""
    gpu = torch.device("cuda", 0)
    assert Scorer(tiny_model("llama"), 0, precision="bf16", device=gpu).packed
    assert not Scorer(tiny_model("llama"), 0, precision="fp32", device=gpu).packed
    assert not Scorer(tiny_model("gemma2"), 0, precision="bf16", device=gpu).packed
    wide = build("llama", head_dim=512)
    assert not Scorer(wide, 0, precision="bf16", device=gpu).packed
    with pytest.raises(ConfigError, match="no heads of width 512"):
        Scorer(wide, 0, precision="bf16", device=gpu, padding_free=True)
