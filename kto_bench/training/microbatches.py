"""How one step's work is cut into passes of bounded size, and dealt to processes."""

from __future__ import annotations

import heapq

import numpy as np

Indices = np.ndarray
Round = list[Indices]
"""For each process the items of its next pass; empty for a process that gets none."""


def cut(tokens: Indices, *, max_tokens: int, max_items: int | None, processes: int) -> list[Round]:
    """Cut n items into rounds; in a round every process has one pass of at most ``max_tokens`` and ``max_items``.

    ``tokens`` is (n,) int, the tokens of each item; an item longer than ``max_tokens`` gets a pass of its own. Items of
    a round are neighbours in length, so that little is padded where padding is needed; the longest come first, so that
    memory runs out at once if it does; and the processes' loads are as even as dealing the longest first makes them.
    Every item occurs exactly once. Pure: all processes compute the same.
    """
    order = np.argsort(-tokens, kind="stable")
    per_process = len(tokens) if max_items is None else max_items
    rounds: list[Round] = []
    start = 0
    while start < len(order):
        running = np.cumsum(tokens[order[start:]])
        size = int(np.searchsorted(running, max_tokens * processes, side="right"))
        # One item for each process always fits: an item alone may be as long as it is.
        size = max(min(size, per_process * processes), min(processes, len(running)))
        while True:
            dealt = _deal(order[start : start + size], tokens, processes, per_process)
            if all(len(items) <= 1 or tokens[items].sum() <= max_tokens for items in dealt):
                break
            size -= 1
        rounds.append(dealt)
        start += size
    return rounds


def _deal(items: Indices, tokens: Indices, processes: int, most: int) -> Round:
    """Give ``items``, longest first, each to the process with the least tokens so far."""
    hands: list[list[int]] = [[] for _ in range(processes)]
    loads = [(0, process) for process in range(processes)]
    for item in items:
        load, process = heapq.heappop(loads)
        hands[process].append(int(item))
        if len(hands[process]) < most:
            heapq.heappush(loads, (load + int(tokens[item]), process))
    return [np.array(hand, dtype=np.int64) for hand in hands]
