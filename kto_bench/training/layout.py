"""Sequences of different lengths as inputs of a decoder: end to end in one row, or padded in groups of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kto_bench.training.attention import Packing

Tokens = Sequence[int]
MAX_PADDING = 0.08
"""Largest share of computed positions that are padding in one group of the padded layout."""


@dataclass(frozen=True)
class Call:
    """One call of the decoder."""

    inputs: dict[str, Any]
    selected: Tensor
    """Which of its hidden states, flattened to (positions, d), predict tokens of completions."""
    computed: int
    """How many positions the decoder computes."""


@dataclass(frozen=True)
class Layout:
    """A batch of (prompt, completion) sequences as calls of a decoder.

    The m selected hidden states of all calls, in order, predict ``targets``; what becomes of them goes to
    ``(rows, columns)`` of the (n, t) result. The last token of a sequence predicts nothing and is no input.
    """

    calls: tuple[Call, ...]
    targets: Tensor
    rows: Tensor
    columns: Tensor
    mask: Tensor
    """(n, t) bool."""
    real: int
    """Positions that are no padding, over all calls."""

    @property
    def computed(self) -> int:
        """Positions that are computed, over all calls."""
        return sum(call.computed for call in self.calls)


def packed(prompts: Sequence[Tokens], completions: Sequence[Tokens], device: torch.device) -> Layout:
    """All sequences end to end in one row; attention has to be ``packed_attention``."""
    batch = _Batch(prompts, completions)
    lengths, order = batch.lengths, np.arange(len(prompts))
    starts = np.cumsum(lengths) - lengths
    bounds = torch.from_numpy(np.append(starts, lengths.sum()).astype(np.int32)).to(device)
    ids, positions, selected, targets, rows, columns = _transfer(
        [batch.ids[batch.inputs(order)], _within(lengths), *batch.selection(order, starts)], device
    )
    inputs = {
        "input_ids": ids.unsqueeze(0),
        "position_ids": positions.unsqueeze(0),
        "packing": Packing(tuple(lengths.tolist()), bounds),
    }
    call = Call(inputs, selected, len(ids))
    return Layout((call,), targets, rows, columns, batch.mask(device), len(ids))


def padded(prompts: Sequence[Tokens], completions: Sequence[Tokens], pad_id: int, device: torch.device) -> Layout:
    """Groups of like length, each padded on the right to its longest: any model can read them."""
    batch = _Batch(prompts, completions)
    calls, wheres = [], []
    for group in _groups(batch.lengths):
        lengths = batch.lengths[group]
        real = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(real.shape, pad_id)
        ids[real] = batch.ids[batch.inputs(group)]
        positions, *where = batch.selection(group, np.arange(len(group)) * real.shape[1])
        rectangle, mask, selected = _transfer([ids, real.astype(np.int64), positions], device)
        inputs = {"input_ids": rectangle, "attention_mask": None if real.all() else mask}
        calls.append(Call(inputs, selected, real.size))
        wheres.append(where)
    targets, rows, columns = _transfer([np.concatenate(parts) for parts in zip(*wheres, strict=True)], device)
    return Layout(tuple(calls), targets, rows, columns, batch.mask(device), int(batch.lengths.sum()))


class _Batch:
    """All tokens in one array, and index arithmetic on it."""

    def __init__(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> None:
        self.prompts = np.fromiter(map(len, prompts), np.int64, len(prompts))
        self.completions = np.fromiter(map(len, completions), np.int64, len(completions))
        self.lengths = self.prompts + self.completions - 1
        self._starts = np.cumsum(self.lengths + 1) - (self.lengths + 1)
        pairs = zip(prompts, completions, strict=True)
        tokens = chain.from_iterable(chain.from_iterable(pairs))
        self.ids = np.fromiter(tokens, np.int64, int((self.lengths + 1).sum()))

    def inputs(self, order: np.ndarray) -> np.ndarray:
        """Indices into ``ids`` of the inputs of the sequences ``order``, end to end."""
        return np.repeat(self._starts[order], self.lengths[order]) + _within(self.lengths[order])

    def selection(self, order: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, ...]:
        """For the tokens of the completions of ``order``, whose sequences start at ``starts`` of a call's positions:

        the positions that predict them, the tokens, their rows and their columns in the result.
        """
        lengths = self.completions[order]
        columns = _within(lengths)
        before = self.prompts[order] - 1
        positions = np.repeat(starts + before, lengths) + columns
        targets = self.ids[np.repeat(self._starts[order] + before + 1, lengths) + columns]
        return positions, targets, np.repeat(order, lengths), columns

    def mask(self, device: torch.device) -> Tensor:
        return torch.from_numpy(np.arange(self.completions.max()) < self.completions[:, None]).to(device)


def _within(lengths: np.ndarray) -> np.ndarray:
    """0 to length - 1 for every length, end to end."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _groups(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of sequences, longest first, cut where the next sequence would bring too much padding."""
    order = np.argsort(-lengths, kind="stable")
    first, real = 0, 0
    for place, index in enumerate(order):
        area = int(lengths[order[first]]) * (place - first + 1)
        real += int(lengths[index])
        if area - real > MAX_PADDING * area:
            yield order[first:place]
            first, real = place, int(lengths[index])
    yield order[first:]


def _transfer(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """The arrays on ``device``, by one copy."""
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in arrays])).to(device)
    parts = flat.split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]
