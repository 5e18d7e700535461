"""Win rates as counts, and means of which no spread is known, as papers publish them.

Everything here captures which prompts (or documents) were drawn, for fixed checkpoints; not the training seed, and not
that two runs may have answered the same prompts: published numbers do not tell which.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from analysis.statistics.crossed import Matrix
from analysis.statistics.difference import Difference


def wilson(wins: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a win rate ``wins / n`` (Wilson 1927, JASA 22:209).

    Captures which prompts happened to be drawn, for one fixed checkpoint; not the training seed.

    A tie counts as half a win, so ``wins`` may end in .5, and the result is treated as a proportion of n yes/no trials.
    The variance of scores in {0, 1/2, 1} is never above that of yes/no outcomes with the same mean, so with ties
    the interval is wider than needed, never narrower; where outcomes are known, ``estimate`` is not. The coverage of a
    single rate oscillates between 92 and 98% with rate and n, since counts are discrete (Brown, Cai & DasGupta 2001,
    Statistical Science 16:101); averaged over rates it is nominal.
    """
    if n <= 0 or not 0 <= wins <= n:
        raise ValueError(f"wilson needs n > 0 and 0 <= wins <= n, got wins={wins}, n={n}")
    low, high = score_interval(wins / n, n, critical_normal(confidence))
    return float(low), float(high)


def score_interval(rate: ArrayLike, n: ArrayLike, z: ArrayLike) -> tuple[Matrix, Matrix]:
    """Wilson's interval for rates of ``n`` trials (any number > 0) with the critical value ``z``; all broadcast."""
    rate, n, z = (np.asarray(part, dtype=float) for part in (rate, n, z))
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def critical_normal(confidence: float) -> float:
    """The z that a standard normal stays within, in absolute value, with probability ``confidence``."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return float(special.ndtri(0.5 + confidence / 2))


def two_proportions(first: float, n_first: int, second: float, n_second: int, confidence: float = 0.95) -> Difference:
    """Difference of two independent proportions ``first / n_first - second / n_second``.

    Interval: Newcombe's hybrid of two Wilson intervals (1998, Statistics in Medicine 17:873, method 10). p-value:
    two-sided z-test with the pooled proportion; 1 where all, or none, won. The interval does not invert the test: near
    the threshold one may exclude 0 where the other does not.
    """
    low, high = wilson(first, n_first, confidence)
    other_low, other_high = wilson(second, n_second, confidence)
    rate, other = first / n_first, second / n_second
    pooled = (first + second) / (n_first + n_second)
    error = (pooled * (1 - pooled) * (1 / n_first + 1 / n_second)) ** 0.5
    gap = rate - other
    return Difference(
        gap,
        max(float(gap - np.hypot(rate - low, other_high - other)), -1.0),  # Wilson's ends round beyond 0 and 1
        min(float(gap + np.hypot(high - rate, other - other_low)), 1.0),
        _two_sided(gap, error),
        1,
        min(n_first, n_second),
    )


def one_proportion(wins: float, n: int, expected: float = 0.5, confidence: float = 0.95) -> Difference:
    """A proportion ``wins / n`` minus a known value. Wilson's interval; the p-value is of the score test, which it
    inverts."""
    low, high = wilson(wins, n, confidence)
    gap = wins / n - expected
    p_value = _two_sided(gap, (expected * (1 - expected) / n) ** 0.5)
    return Difference(gap, low - expected, high - expected, p_value, 1, n)


def largest_error(mean: float, n: int, highest: float) -> float:
    """The largest standard error that a mean of ``n`` values between 0 and ``highest`` can have.

    The variance of values in [0, M] with mean m is at most m (M - m) (Bhatia & Davis 2000, American Mathematical
    Monthly 107:353), taken when all values are 0 or M. For means whose spread was not published.
    """
    if not 0 <= mean <= highest:
        raise ValueError(f"largest_error needs 0 <= mean <= highest, got mean={mean}, highest={highest}")
    return float((mean * (highest - mean) / n) ** 0.5)


def two_bounded_means(
    first: float, n_first: int, second: float, n_second: int, highest: float, confidence: float = 0.95
) -> Difference:
    """Difference of two independent means of values in [0, ``highest``], in their unit, whose spread is unknown.

    Normal interval and two-sided z-test with the largest standard errors possible, so both are conservative.
    """
    error = float(np.hypot(largest_error(first, n_first, highest), largest_error(second, n_second, highest)))
    gap, z = first - second, critical_normal(confidence)
    return Difference(gap, gap - z * error, gap + z * error, _two_sided(gap, error), 1, min(n_first, n_second))


def _two_sided(gap: float, error: float) -> float:
    """p-value of a z-test; 1 where there is no error, since then there is no difference either."""
    return float(2 * special.ndtr(-abs(gap) / error)) if error > 0 else 1.0


def fisher_exact(first: int, n_first: int, second: int, n_second: int) -> float:
    """Two-sided p-value of Fisher's exact test (1934) that two independent rates are equal.

    Captures what ``two_proportions`` does. It never rejects too often, and with few trials too rarely. Counts are
    whole: ties have no place in it.
    """
    counts = (first, n_first - first, second, n_second - second)
    if any(count < 0 or count != int(count) for count in counts) or not (n_first and n_second):
        raise ValueError(
            f"fisher_exact needs whole counts with 0 <= wins <= n and n > 0, got {first} of {n_first} and {second} of "
            f"{n_second}; with ties use two_proportions"
        )
    table = [[int(count) for count in counts[:2]], [int(count) for count in counts[2:]]]
    return float(stats.fisher_exact(table).pvalue)
