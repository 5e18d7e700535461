"""Causal attention over sequences that lie end to end in one row, with no padding between them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

WIDEST_HEAD = 256
"""Flash attention's limit."""
PACKED = "kto_bench_packed"
"""The name under which transformers finds the function below."""

_WITHOUT_EFFECT = {"position_ids", "use_cache", "cache_position", "output_attentions", "output_hidden_states"}


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the sequences of one row lie.

    One opaque object rather than several arguments, so that torch.compile does not compile anew for every batch.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    """(n + 1,) int32 on the model's device: starts of the sequences, and the end of the last."""
    windows: set[int | None] = field(default_factory=set)
    """The sliding windows that the model's layers asked for, once they have."""


@dataclass(frozen=True)
class Wanted:
    """What a layer asks of its attention, besides being causal."""

    scaling: float | None
    sliding_window: int | None
    softcap: float | None

    def window_of(self, length: int) -> int:
        """The sliding window where it is shorter than a sequence of ``length``, else 0."""
        return 0 if self.sliding_window is None or self.sliding_window >= length else self.sliding_window


@torch.compiler.disable
def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of every sequence to itself and its past, as transformers' interface of attention functions has it.

    ``query`` is (1, heads, positions, d); ``key`` and ``value`` may have fewer heads. Returns (1, positions, heads, d).
    A position sees ``sliding_window`` positions, itself included. Raises for anything else that changes attention: the
    layout falls back to padding then.
    """
    if packing is None:
        raise RuntimeError(
            "this model's attention reads packed rows since a Scorer was made of it; before calling the model itself, "
            "call its `set_attn_implementation('sdpa')`"
        )
    packing.windows.add(sliding_window)
    wanted = Wanted(scaling, sliding_window, softcap)
    unknown = [
        name
        for name, given in others.items()
        if name not in _WITHOUT_EFFECT and given is not None and given is not False
    ]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if unknown or attention_mask is not None or dropout or not causal:
        raise NotImplementedError(
            f"packed attention is causal, without mask or dropout, and not made for: {', '.join(unknown) or 'others'}"
        )
    device = query.device.type
    # Under autocast, rotary embeddings leave queries and keys in fp32, and kernels of our own are not on its list.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    if device == "cuda" and dtype in (torch.bfloat16, torch.float16):
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        return _variable_length(query, key, value, packing, wanted), None
    # In fp32: the backward pass of the CPU's kernel takes three times as long in bf16.
    with torch.autocast(device, enabled=False):
        wide = torch.promote_types(dtype, torch.float32)
        query, key, value = query.to(wide), key.to(wide), value.to(wide)
        output = _one_by_one(query, key, value, packing, wanted)
    return output.to(dtype), None


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether packed attention in ``dtype`` is worth it on ``device``: one kernel call per sequence is not on a GPU."""
    if device.type == "cuda":
        return (
            dtype in (torch.bfloat16, torch.float16)
            and importlib.util.find_spec("torch.nn.attention.varlen") is not None
        )
    return device.type == "cpu"


def beyond_kernel(config: Any) -> str | None:
    """What a model's configuration asks for that the variable-length kernel cannot do; None where nothing is known."""
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "the variable-length kernel has no soft-capping"
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return f"the variable-length kernel has no heads of width {width}" if width > WIDEST_HEAD else None


def _variable_length(query: Tensor, key: Tensor, value: Tensor, packing: Packing, wanted: Wanted) -> Tensor:
    from torch.nn.attention import varlen

    if wanted.softcap is not None:
        raise NotImplementedError("the variable-length kernel has no soft-capping")
    longest = max(packing.lengths)
    # The kernel counts the positions to the left of a query, transformers the query as well.
    left = wanted.window_of(longest) - 1
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    output: Any = varlen.varlen_attn(
        query,
        key,
        value,
        packing.bounds,
        packing.bounds,
        longest,
        longest,
        scale=wanted.scaling,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.unsqueeze(0)


def _one_by_one(query: Tensor, key: Tensor, value: Tensor, packing: Packing, wanted: Wanted) -> Tensor:
    """One call per sequence: on a CPU faster than any mask, and nothing is computed between sequences."""
    outputs = []
    for q, k, v in zip(*(tensor.split(packing.lengths, dim=2) for tensor in (query, key, value)), strict=True):
        length = q.shape[2]
        mask = _window(length, window, q.device) if (window := wanted.window_of(length)) else None
        if wanted.softcap is None:
            output = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=wanted.scaling, enable_gqa=q.shape[1] != k.shape[1]
            )
        else:
            output = _soft_capped(q, k, v, mask, wanted.scaling, wanted.softcap)
        outputs.append(output.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _window(length: int, window: int, device: torch.device) -> Tensor:
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril().triu(1 - window)


def _soft_capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    """Attention with scores squashed to (-softcap, softcap) before the mask, as Gemma 2 has it."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    mask = _window(query.shape[2], query.shape[2], query.device) if mask is None else mask
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


AttentionInterface.register(PACKED, packed_attention)
