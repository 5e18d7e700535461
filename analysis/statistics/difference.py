"""What a comparison of two methods results in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """A difference (first minus second) with its interval and two-sided p-value, and the n that it rests on."""

    value: float
    low: float
    high: float
    p_value: float
    seeds: int
    prompts: int
