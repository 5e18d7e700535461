"""Attention over sequences end to end, against a dense softmax with the mask written out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen
from transformers import AutoConfig, AutoModelForCausalLM

from kto_bench.training import attention
from kto_bench.training.attention import Packing, has_kernel, packed_attention
from kto_bench.training.logprobs import Scorer

LENGTHS = (3, 1, 7, 5)
LAYER = SimpleNamespace(is_causal=True)


def tensors(heads: int = 4, shared: int = 2, width: int = 8, **options: Any) -> list[torch.Tensor]:
    """Query, key and value as layers of transformers give them, (1, heads, positions, width)."""
    torch.manual_seed(0)
    return [torch.randn(1, sum(LENGTHS), n, width, **options).transpose(1, 2) for n in (heads, shared, shared)]


def packing() -> Packing:
    return Packing(LENGTHS, torch.tensor([0, 3, 4, 11, 16], dtype=torch.int32))


def dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Every pair of positions is scored; those of other sequences, the future and beyond the window are then masked."""
    sequence = torch.tensor([number for number, length in enumerate(LENGTHS) for _ in range(length)])
    place = torch.arange(len(sequence))
    distance = place[:, None] - place[None, :]
    seen = (sequence[:, None] == sequence[None, :]) & (distance >= 0)
    if window is not None:
        seen &= distance < window
    head_of = torch.arange(query.shape[1]) * key.shape[1] // query.shape[1]
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key[:, head_of]) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~seen, -1e30).softmax(-1)
    return torch.einsum("bhqk,bhkd->bqhd", weights, value[:, head_of])


CASES = [{}, {"window": 1}, {"window": 3}, {"window": 7}, {"softcap": 0.5}, {"window": 3, "softcap": 0.5}]


@pytest.mark.parametrize("shared", [1, 2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_a_dense_softmax_with_gradients(case: dict[str, Any], shared: int) -> None:
    inputs = [tensor.requires_grad_() for tensor in tensors(shared=shared)]
    expected = dense(*inputs, scaling=0.7, **case)
    output, _ = packed_attention(
        LAYER,
        *inputs,
        None,
        scaling=0.7,
        packing=packing(),
        sliding_window=case.get("window"),
        softcap=case.get("softcap"),
    )
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected)
    got, want = (
        torch.autograd.grad((output * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_the_scale_is_that_of_the_head_unless_given() -> None:
    inputs = tensors()
    for softcap in (None, 0.5):
        output, _ = packed_attention(LAYER, *inputs, None, packing=packing(), softcap=softcap)
        torch.testing.assert_close(output, dense(*inputs, scaling=8**-0.5, softcap=softcap), atol=1e-5, rtol=1e-5)


def test_the_output_has_the_precision_of_autocast() -> None:
    query, key, value = tensors()
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = packed_attention(LAYER, query, key, value.bfloat16(), None, packing=packing())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), dense(query, key, value, 8**-0.5), atol=2e-2, rtol=2e-2)


def varlen_as_documented(
    query: Any, key: Any, value: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, **options: Any
) -> Any:
    """What torch says of its kernel: (T, H, D), int32 bounds, a window of positions left and right of a query."""
    assert query.dtype == key.dtype == value.dtype == torch.bfloat16
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert query.shape[0] == int(cu_q[-1]) == sum(LENGTHS)
    assert max_q == max_k == int(cu_q.diff().max())
    assert options["enable_gqa"] == (query.shape[1] != key.shape[1])
    left, right = options["window_size"]
    assert right == 0
    transposed = [tensor.float().transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
    output = dense(*transposed, scaling=options["scale"], window=None if left == -1 else left + 1)
    return output[0].to(query.dtype)


@pytest.mark.parametrize("shared", [2, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 7])
def test_what_the_variable_length_kernel_is_given(
    monkeypatch: pytest.MonkeyPatch, window: int | None, shared: int
) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", varlen_as_documented)
    inputs = tensors(shared=shared, dtype=torch.bfloat16)
    output = attention._variable_length(*inputs, packing(), attention.Wanted(0.7, window, None))
    expected = dense(*(tensor.float() for tensor in inputs), scaling=0.7, window=window)
    assert output.shape == expected.shape
    torch.testing.assert_close(output.float(), expected, atol=2e-2, rtol=2e-2)


def test_the_variable_length_kernel_takes_what_we_pass() -> None:
    """Its real signature, on meta tensors."""
    inputs = [tensor.to("meta") for tensor in tensors(dtype=torch.bfloat16)]
    somewhere = Packing(LENGTHS, torch.empty(5, dtype=torch.int32, device="meta"))
    assert attention._variable_length(*inputs, somewhere, attention.Wanted(0.7, 3, None)).shape == (
        1,
        sum(LENGTHS),
        4,
        8,
    )


@pytest.mark.parametrize(
    "options",
    [{"s_aux": torch.zeros(4)}, {"dropout": 0.1}, {"attention_mask": torch.ones(1, 1, 16, 16)}, {"is_causal": False}],
    ids=lambda options: next(iter(options)),
)
def test_whatever_else_changes_attention_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="causal"):
        packed_attention(LAYER, *tensors(), **{"attention_mask": None, "packing": packing(), **options})


def test_layers_that_look_ahead_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="causal"):
        packed_attention(SimpleNamespace(is_causal=False), *tensors(), None, packing=packing())


def test_what_has_no_effect_is_allowed() -> None:
    packed_attention(
        LAYER,
        *tensors(),
        None,
        packing=packing(),
        use_cache=False,
        position_ids=torch.arange(16),
        s_aux=None,
        is_causal=True,
    )


def test_where_there_is_a_kernel() -> None:
    assert has_kernel(torch.device("cpu"), torch.float32)
    assert has_kernel(torch.device("cuda"), torch.bfloat16)
    assert not has_kernel(torch.device("cuda"), torch.float32)
    assert not has_kernel(torch.device("mps"), torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_neox"])
def test_packed_equals_padded_on_a_gpu(name: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        name, vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4
    )
    if name == "mistral":
        config.sliding_window = 16
    model = AutoModelForCausalLM.from_config(config).eval().cuda()
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(256, (length,), generator=draw).tolist() for length in (5, 40, 17, 90)]
    rows = [sequence[:2] for sequence in ids], [sequence[2:] for sequence in ids]
    outputs = []
    for padding_free in (True, False):
        model.zero_grad()
        log_probs, mask = Scorer(model, 0, precision="bf16", padding_free=padding_free)(*rows)
        log_probs[mask].mean().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        outputs.append((log_probs.detach(), gradient))
    torch.testing.assert_close(outputs[0][0], outputs[1][0], atol=5e-2, rtol=2e-2)
    assert (outputs[0][1] - outputs[1][1]).norm() < 5e-2 * outputs[1][1].norm()
