"""Low-rank adapters: the start is unchanged, only adapters learn, and merging keeps what they learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

from kto_bench.component import ConfigError
from kto_bench.models import load_policy, save_policy
from kto_bench.training.config import LoraSettings
from kto_bench.training.lora import add_adapter, merge

IDS = torch.tensor([[1, 7, 8, 9, 10, 11], [1, 20, 30, 40, 50, 60]])
VARIANTS = [*ARCHITECTURES, "tied"]
LAYER = "model.layers.1.self_attn.q_proj"


def model_of(variant: str) -> Any:
    """A model of each architecture, and a Llama whose output head is its embedding."""
    if variant != "tied":
        return tiny_model(variant)
    from transformers import AutoModelForCausalLM

    config = tiny_model().config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def adapters_of(adapter: Any) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in adapter.named_parameters() if parameter.requires_grad}


def trained(adapter: Any, scale: float = 0.3) -> Any:
    """The adapter with every B, which starts at zero, filled in."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapters_of(adapter).items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return adapter


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_start_is_the_base_exactly(variant: str) -> None:
    expected = model_of(variant)(IDS).logits
    policy = add_adapter(model_of(variant), LoraSettings(rank=4), seed=0).get_base_model()
    assert torch.equal(policy(IDS).logits, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_merged_model_is_the_adapted_one_and_a_plain_checkpoint(tmp_path: Path, variant: str) -> None:
    base = model_of(variant)
    adapter = trained(add_adapter(model_of(variant), LoraSettings(rank=4, alpha=8), seed=0))
    expected = adapter.get_base_model()(IDS).logits
    assert (expected - base(IDS).logits).abs().max() > 1e-2, "the adapter must do something"
    merged = merge(adapter)
    assert type(merged) is type(base)
    assert set(merged.state_dict()) == set(base.state_dict())
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-5, rtol=0)
    save_policy(tmp_path, merged, tiny_tokenizer())
    assert not list(tmp_path.glob("adapter*"))
    loaded = load_policy(tmp_path)
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=1e-5, rtol=0)


def test_merging_adds_the_scaled_product_and_leaves_the_rest() -> None:
    base = tiny_model().state_dict()
    adapter = trained(add_adapter(tiny_model(), LoraSettings(rank=4, alpha=8, targets=("q_proj",)), seed=0))
    state = {name.removeprefix("base_model.model."): value.clone() for name, value in adapters_of(adapter).items()}
    update = 8 / 4 * state[f"{LAYER}.lora_B.default.weight"] @ state[f"{LAYER}.lora_A.default.weight"]
    merged = merge(adapter).state_dict()
    torch.testing.assert_close(merged[f"{LAYER}.weight"], base[f"{LAYER}.weight"] + update)
    assert {name for name in base if not torch.equal(base[name], merged[name])} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)
    }


def test_the_number_of_trained_parameters() -> None:
    """Width 32, 4 heads of 8 with 2 for keys and values, MLP 48, two layers: rank times inputs plus outputs of each."""
    one_layer = 3 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32) + (32 + 48) + (32 + 48) + (48 + 32))
    adapter = add_adapter(tiny_model(), LoraSettings(rank=3), seed=0)
    assert sum(parameter.numel() for parameter in adapters_of(adapter).values()) == 2 * one_layer
    attention = add_adapter(tiny_model(), LoraSettings(rank=3, targets=("q_proj", "self_attn.v_proj")), seed=0)
    assert sum(p.numel() for p in adapters_of(attention).values()) == 2 * 3 * ((32 + 32) + (32 + 16))


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_linear_layers_but_the_output_head_are_adapted(variant: str) -> None:
    base = model_of(variant)
    adapter = add_adapter(model_of(variant), LoraSettings(rank=2), seed=0)
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name in adapters_of(adapter)
        if "lora_A" in name
    }
    linear = {name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear - adapted == {"lm_head"}
    assert adapted < linear


def test_the_seed_decides_the_adapters_and_no_other_random_state() -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        return adapters_of(add_adapter(tiny_model(), LoraSettings(rank=4), seed))

    one, same, other = made(3), made(3), made(4)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) == ("lora_B" in name) for name in one)
    policy = tiny_model()
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    add_adapter(policy, LoraSettings(rank=4), seed=3)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(one[name], value) for name, value in made(3).items()), "nor does it depend on that"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_adapters_only_and_they_are_fp32(dtype: torch.dtype) -> None:
    adapter = trained(add_adapter(tiny_model().to(dtype), LoraSettings(rank=4), seed=0))
    adapter.get_base_model()(IDS).logits.float().logsumexp(-1).sum().backward()
    for name, parameter in adapter.named_parameters():
        assert ("lora_" in name) == parameter.requires_grad
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.dtype == dtype
            assert parameter.grad is None


def test_merging_keeps_an_update_that_bf16_would_round_away(tmp_path: Path) -> None:
    base = tiny_model().to(torch.bfloat16)
    before = base.get_submodule(LAYER).weight.clone()
    adapter = trained(add_adapter(base, LoraSettings(rank=4, targets=("q_proj",)), seed=0), scale=1e-6)
    merged = merge(adapter)
    weight = merged.get_submodule(LAYER).weight
    changed = weight != before.float()
    assert changed.float().mean() > 0.9
    lost = weight.to(torch.bfloat16) == before
    assert lost.float().mean() > 0.95, "the update is smaller than the rounding of bf16, but for weights near zero"
    save_policy(tmp_path, merged, tiny_tokenizer())
    loaded = load_policy(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.get_submodule(LAYER).weight, weight)


@pytest.mark.parametrize("targets", [("q_proj", "query"), ("lm_head",), ("embed_tokens",), ("proj",), ()])
def test_unknown_targets_are_refused_by_name(targets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        add_adapter(tiny_model(), LoraSettings(targets=targets), seed=0)
    message = str(caught.value)
    assert message.startswith(f"train.lora.targets: {list(targets)} is not allowed")
    assert (targets[-1] if targets else "an empty list") in message
    assert "down_proj" in message
    assert "lm_head" not in message.partition("choose")[2]
