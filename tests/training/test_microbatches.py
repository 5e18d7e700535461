"""How a step is cut into passes and dealt to processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_bench.training.microbatches import cut


@given(
    tokens=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    max_tokens=st.integers(1, 1000),
    max_items=st.one_of(st.none(), st.integers(1, 20)),
    processes=st.integers(1, 5),
)
def test_every_item_once_within_the_limits(
    tokens: list[int], max_tokens: int, max_items: int | None, processes: int
) -> None:
    lengths = np.array(tokens)
    rounds = cut(lengths, max_tokens=max_tokens, max_items=max_items, processes=processes)
    passes = [items for dealt in rounds for items in dealt]
    assert sorted(np.concatenate(passes)) == list(range(len(tokens)))
    assert all(len(dealt) == processes for dealt in rounds)
    for items in passes:
        assert len(items) <= (max_items or len(tokens))
        assert len(items) <= 1 or lengths[items].sum() <= max_tokens
    # No round leaves a process idle while a later one has work that could have been done.
    assert all(all(len(items) for items in dealt) for dealt in rounds[:-1])


def test_longest_first_and_evenly_dealt() -> None:
    """Lengths 9 to 1 for two processes: 9, then 8, 7, then 6, 5, then ... to the one with less: 23 and 22 tokens."""
    (only,) = cut(np.arange(1, 10), max_tokens=100, max_items=None, processes=2)
    loads = sorted(int((items + 1).sum()) for items in only)
    assert loads == [22, 23]


def test_one_process_gets_neighbours_in_length() -> None:
    """Budget 10 over lengths 6, 5, 4, 3, 2: [6], [5, 4], [3, 2] (6 + 5 and 5 + 4 + 3 are too many)."""
    rounds = cut(np.array([3, 6, 2, 5, 4]), max_tokens=10, max_items=None, processes=1)
    assert [sorted(dealt[0].tolist()) for dealt in rounds] == [[1], [3, 4], [0, 2]]


def test_an_item_longer_than_the_budget_is_alone() -> None:
    rounds = cut(np.array([1, 50, 1]), max_tokens=10, max_items=None, processes=1)
    assert [dealt[0].tolist() for dealt in rounds] == [[1], [0, 2]]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_on_every_call(processes: int) -> None:
    tokens = np.random.default_rng(0).integers(1, 100, size=50)
    first, second = (cut(tokens, max_tokens=200, max_items=4, processes=processes) for _ in range(2))
    assert all(
        np.array_equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True)
    )
