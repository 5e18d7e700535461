"""Tests and intervals for published counts, where outcomes per prompt are unknown and runs count as independent.

Everything here captures which prompts (or documents) were drawn, for fixed checkpoints; not the training seed. Where
prompts were the same for both runs and differ in difficulty, paired outcomes would give a smaller or, rarely, a larger
uncertainty: these are what counts alone allow.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from analysis.statistics import Difference, wilson

NORMAL = NormalDist()


def two_proportions(first: float, n_first: int, second: float, n_second: int, confidence: float = 0.95) -> Difference:
    """Difference of two independent proportions ``first / n_first - second / n_second``.

    Interval: Newcombe's hybrid score interval (1998, Statistics in Medicine 17:873, method 10, from two Wilson
    intervals). p-value: two-sided z-test with the pooled proportion; 1 where nobody, or everybody, won. The interval
    does not invert the test, so that near the threshold one may exclude 0 where the other does not.
    """
    rate, other = first / n_first, second / n_second
    low, high = wilson(first, n_first, confidence)
    other_low, other_high = wilson(second, n_second, confidence)
    gap = rate - other
    pooled = (first + second) / (n_first + n_second)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n_first + 1 / n_second))
    return Difference(
        gap,
        gap - math.hypot(rate - low, other_high - other),
        gap + math.hypot(high - rate, other - other_low),
        _two_sided(gap, error),
        1,
        min(n_first, n_second),
    )


def one_proportion(wins: float, n: int, expected: float = 0.5, confidence: float = 0.95) -> Difference:
    """A proportion minus a known value. Wilson's interval; the p-value is of the score test, which it inverts."""
    low, high = wilson(wins, n, confidence)
    gap = wins / n - expected
    p_value = _two_sided(gap, math.sqrt(expected * (1 - expected) / n))
    return Difference(gap, low - expected, high - expected, p_value, 1, n)


def largest_error(mean: float, n: int, highest: float) -> float:
    """The largest standard error that a mean of ``n`` values between 0 and ``highest`` can have.

    The variance of values in [0, M] with mean m is at most m (M - m) (Bhatia & Davis 2000, American Mathematical
    Monthly 107:353), taken when all values are 0 or M. For means whose spread was not published.
    """
    if not 0 <= mean <= highest:
        raise ValueError(f"largest_error needs 0 <= mean <= highest, got mean={mean}, highest={highest}")
    return math.sqrt(mean * (highest - mean) / n)


def two_bounded_means(
    first: float, n_first: int, second: float, n_second: int, highest: float, confidence: float = 0.95
) -> Difference:
    """Difference of two independent means of values in [0, ``highest``], in their unit, whose spread is unknown.

    Normal interval and two-sided z-test with the largest standard errors possible, so both are conservative.
    """
    error = math.hypot(largest_error(first, n_first, highest), largest_error(second, n_second, highest))
    gap, z = first - second, NORMAL.inv_cdf(0.5 + confidence / 2)
    return Difference(gap, gap - z * error, gap + z * error, _two_sided(gap, error), 1, min(n_first, n_second))


def _two_sided(gap: float, error: float) -> float:
    return 2 * NORMAL.cdf(-abs(gap) / error) if error > 0 else 1.0
