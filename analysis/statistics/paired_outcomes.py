"""Tests on the same prompts that assume nothing about how outcomes are distributed: McNemar and permutations."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import stats

from analysis.statistics.crossed import Matrix

EXACT = 16
"""Up to so many units all sign flips are enumerated; with more they are drawn."""
FLIPS = 100_000
_CHUNK = 4_000_000


def mcnemar(first: Matrix, second: Matrix, mid_p: bool = False) -> float:
    """Two-sided p-value that two methods win equally often on the same prompts; both (prompts,) of 0 and 1.

    McNemar's test (1947, Psychometrika 12:153) in its exact form: of the prompts on which the two differ, each method
    wins Binomial(n, 1/2). ``mid_p`` counts half the probability of what was observed, which rejects less rarely and
    hardly ever too often (Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91). Captures prompts only, for
    two fixed checkpoints. Prompts that are NaN for either are left out.
    """
    first, second = _same(first, second, "mcnemar", 1)
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    values = np.unique(np.concatenate([first, second]))
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError(
            f"mcnemar needs outcomes 0 or 1, got {values[~np.isin(values, (0.0, 1.0))][0]:g}; with ties or scores use "
            "permutation_test"
        )
    wins, losses = int((first > second).sum()), int((first < second).sum())
    n, fewer = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    observed = float(stats.binom.pmf(fewer, n, 0.5))
    p_value = min(1.0, 2 * float(stats.binom.cdf(fewer, n, 0.5)))
    # With as many wins as losses, both tails hold the observed outcome, so half of it is taken from each: 1 stays.
    return 1.0 if wins == losses else p_value - observed if mid_p else p_value


def permutation_test(differences: Matrix, rng: Generator, over: str = "prompts") -> float:
    """Two-sided p-value that paired ``differences`` (seeds, prompts) are symmetric around 0, by flipping signs.

    Fisher's randomisation test (1935, *The Design of Experiments*, section 21) with the mean as statistic. ``over``
    "prompts" flips whole columns, which captures the draw of prompts for the seeds at hand; "seeds" flips whole rows,
    which captures training seeds for the prompts at hand. With S seeds p is at least 2 / 2^S: six are needed for 0.05.
    Up to 16 units all flips are enumerated; otherwise 100,000 are drawn and the observed one is counted among them.
    """
    if over not in ("prompts", "seeds"):
        raise ValueError(f'over must be "prompts" or "seeds", got {over!r}')
    values = np.asarray(differences, dtype=float)
    sums = np.nansum(values, axis=0 if over == "prompts" else 1)
    if np.isnan(values).all():
        raise ValueError("permutation_test needs at least one difference that is not NaN")
    sums = sums[sums != 0]
    if not sums.size:
        return 1.0
    reached = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    if sums.size <= EXACT:
        signs = 1 - 2.0 * ((np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1)
        return float((np.abs(signs @ sums) >= reached).mean())
    beyond, drawn = 0, 0
    while drawn < FLIPS:
        count = min(FLIPS - drawn, max(1, _CHUNK // sums.size))
        signs = 1 - 2.0 * rng.integers(2, size=(count, sums.size), dtype=np.int8)
        beyond += int((np.abs(signs @ sums) >= reached).sum())
        drawn += count
    return (beyond + 1) / (FLIPS + 1)


def _same(first: Matrix, second: Matrix, name: str, dimensions: int) -> tuple[Matrix, Matrix]:
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != dimensions:
        raise ValueError(f"{name} needs the same prompts for both, got shapes {first.shape} and {second.shape}")
    return first, second
