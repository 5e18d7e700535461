"""Many lists of token ids in few arrays, which may lie on disk: nothing is held per token or per list in Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, overload

import numpy as np
import pyarrow as pa

Tokens = Sequence[int]


class TokenLists(Sequence[list[int]]):
    """n lists of token ids, each read from its array when it is asked for.

    Built by ``of`` (from lists in memory) or ``from_arrow`` (from a column that may be memory-mapped).
    """

    def __init__(self, parts: Sequence[np.ndarray], part_of: np.ndarray, starts: np.ndarray, lengths: np.ndarray):
        """List i is ``lengths[i]`` ids of the array ``parts[part_of[i]]`` from ``starts[i]`` on."""
        self._parts, self._part_of, self._starts, self.lengths = parts, part_of, starts, lengths

    @classmethod
    def of(cls, lists: Iterable[Tokens]) -> TokenLists:
        """The same lists, copied."""
        lists = list(lists)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        values = np.fromiter(chain.from_iterable(lists), np.int32, int(lengths.sum()))
        return cls([values], np.zeros(len(lists), np.int64), np.cumsum(lengths) - lengths, lengths)

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> TokenLists:
        """The rows of a column of type list<int32>, without copying ids."""
        parts: list[np.ndarray] = []
        part_of, starts, lengths = [], [], []
        for number, chunk in enumerate(column.chunks):
            offsets = chunk.offsets.to_numpy().astype(np.int64)
            parts.append(chunk.values.to_numpy())
            part_of.append(np.full(len(chunk), number))
            starts.append(offsets[:-1])
            lengths.append(np.diff(offsets))
        empty = [np.empty(0, np.int64)]
        return cls(parts, *(np.concatenate(arrays or empty) for arrays in (part_of, starts, lengths)))

    def take(self, indices: np.ndarray) -> TokenLists:
        """The lists ``indices``, in that order and with repetitions; no id is copied."""
        return TokenLists(self._parts, self._part_of[indices], self._starts[indices], self.lengths[indices])

    def joined(self, more: TokenLists) -> TokenLists:
        """These lists and then ``more``; no id is copied."""
        return TokenLists(
            [*self._parts, *more._parts],
            np.concatenate([self._part_of, more._part_of + len(self._parts)]),
            np.concatenate([self._starts, more._starts]),
            np.concatenate([self.lengths, more.lengths]),
        )

    def first(self, kept: np.ndarray) -> TokenLists:
        """The first ``kept[i]`` ids of each list; no id is copied."""
        return TokenLists(self._parts, self._part_of, self._starts, kept)

    def last(self, kept: np.ndarray) -> TokenLists:
        """The last ``kept[i]`` ids of each list; no id is copied."""
        return TokenLists(self._parts, self._part_of, self._starts + self.lengths - kept, kept)

    def without_leading(self, token: int) -> TokenLists:
        """The lists from their first id on that is not ``token``."""
        values, starts, lengths = self._flat()
        while (leads := (lengths > 0) & (np.append(values, -1)[starts] == token)).any():
            starts, lengths = starts + leads, lengths - leads
        return TokenLists([values], np.zeros(len(starts), np.int64), starts, lengths)

    def without(self, tokens: Sequence[int]) -> TokenLists:
        """The lists without any of ``tokens``."""
        values, starts, lengths = self._flat()
        stays = np.logical_and.reduce([values != token for token in tokens])
        if stays.all():
            return self
        before = np.concatenate([[0], np.cumsum(stays)])
        lengths = before[starts + lengths] - before[starts]
        return TokenLists([values[stays]], np.zeros(len(starts), np.int64), before[starts], lengths)

    def extended(self, before: Sequence[int], after: Sequence[int] = (), where: np.ndarray | bool = True) -> TokenLists:
        """The lists with ``before`` in front of each, and ``after`` behind those ``where`` it is wanted; copied."""
        values, starts, lengths = self._flat()
        where = np.broadcast_to(where, len(lengths))
        longer = len(before) + lengths + len(after) * where
        begins = np.cumsum(longer) - longer
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        out = np.empty(int(longer.sum()), np.int32)
        out[np.repeat(begins + len(before), lengths) + within] = values[np.repeat(starts, lengths) + within]
        for place, token in enumerate(before):
            out[begins + place] = token
        for place, token in enumerate(after):
            out[(begins + len(before) + lengths + place)[where]] = token
        return TokenLists([out], np.zeros(len(longer), np.int64), begins, longer)

    def to_arrow(self) -> pa.ListArray:
        """As a column of type list<int32>."""
        values, starts, _ = self.extended(())._flat()
        return pa.ListArray.from_arrays(pa.array(np.append(starts, len(values)), pa.int32()), pa.array(values))

    def _flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One array for all, with each list's start in it and length."""
        bases = np.cumsum([0, *map(len, self._parts)])
        values = self._parts[0] if len(self._parts) == 1 else np.concatenate([np.empty(0, np.int32), *self._parts])
        return values, bases[self._part_of] + self._starts, self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start = self._starts[index]
        return self._parts[self._part_of[index]][start : start + self.lengths[index]].tolist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == list(theirs) for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} lists of {int(self.lengths.sum())} token ids>"


def as_lists(lists: Sequence[Tokens]) -> TokenLists:
    """``lists`` as TokenLists, copied where they are none yet."""
    return lists if isinstance(lists, TokenLists) else TokenLists.of(lists)


def lengths_of(lists: Sequence[Tokens]) -> np.ndarray:
    """(n,) int64 number of tokens of each list, without reading the ids where that can be avoided."""
    return lists.lengths if isinstance(lists, TokenLists) else np.fromiter(map(len, lists), np.int64, len(lists))
