"""Estimates, intervals and tests; nothing here knows about figures, files or losses.

All randomness comes from an explicit ``numpy.random.Generator``. Outcomes are matrices of shape (seeds, prompts): one
row per training seed, one column per prompt, shared by all rows; NaN where a prompt was not answered under a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
REPLICATES = 4000
DIFFERENCE_REPLICATES = 10_000
"""More of them than for intervals: the smallest p-value is 2 / (replicates + 1), and Holm multiplies it."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, and what it rests on. ``method`` is "wilson" or "bootstrap"."""

    value: float
    low: float
    high: float
    seeds: int
    prompts: int
    method: str


@dataclass(frozen=True)
class BestOfTrials:
    """Expected best score of the first 1, 2, ... trials, with an interval for each; all arrays are (trials,)."""

    value: Matrix
    low: Matrix
    high: Matrix


@dataclass(frozen=True)
class Difference:
    """A paired mean difference (first minus second) with its interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float
    seeds: int
    prompts: int


def wilson(wins: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval for a win rate ``wins / n`` (Wilson 1927, JASA 22:209).

    Captures which prompts happened to be drawn, for one fixed checkpoint; not the training seed.

    A tie counts as half a win, so ``wins`` may end in .5, and the result is treated as a proportion of n yes/no trials.
    The variance of scores in {0, 1/2, 1} is never above that of yes/no outcomes with the same mean, so with ties
    the interval is wider than needed, never narrower.
    """
    if n <= 0 or not 0 <= wins <= n:
        raise ValueError(f"wilson needs n > 0 and 0 <= wins <= n, got wins={wins}, n={n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = wins / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def two_level_bootstrap(outcomes: Matrix, rng: Generator, replicates: int = REPLICATES) -> Matrix:
    """(replicates,) bootstrap means of ``outcomes`` (seeds, prompts), resampling seeds and, independently, prompts.

    Captures the draw of prompts *and* the draw of training seeds. Prompts are resampled as columns, because all seeds
    (and, in a paired difference, both methods) answer the same prompts; this crossed scheme is Owen's pigeonhole
    bootstrap (2007, Annals of Applied Statistics 1:386). It errs on the safe side: the noise of single answers enters
    both levels and their product, so where it outweighs what seeds and prompts contribute, intervals are up to
    sqrt(3) times wider than needed (measured coverage of nominal 95% intervals: 97 to 99%).

    Of S > 1 seeds, S - 1 are drawn rather than S, so that the variance between few seeds is not underestimated by the
    factor (S - 1) / S (Rao & Wu 1988, JASA 83:231, with m = n - 1). With one seed only the prompts are resampled, and
    the result says nothing about another seed. With two seeds each replicate rests on one of them: an interval then
    spans what both seeds show, but two draws cannot tell how far a third would fall. Coverage measured
    where seeds matter much more than prompts: 78% with two seeds, 87% with three, 92% with five; where they matter
    as much as prompts or less: 94% and above from two seeds on.

    The mean is taken over the outcomes that are not NaN. Vectorised: the cost is one (replicates, prompts) matrix
    product.
    """
    seeds, prompts = outcomes.shape
    if np.isnan(outcomes).all():
        raise ValueError("two_level_bootstrap needs at least one outcome that is not NaN")
    seed_weights = _resampling_counts(seeds, max(seeds - 1, 1), replicates, rng)
    prompt_weights = _resampling_counts(prompts, prompts, replicates, rng)
    observed = ~np.isnan(outcomes)
    sums = np.einsum("bs,bs->b", seed_weights, prompt_weights @ np.where(observed, outcomes, 0.0).T)
    counts = np.einsum("bs,bs->b", seed_weights, prompt_weights @ observed.T.astype(float))
    return sums[counts > 0] / counts[counts > 0]


def estimate(outcomes: Matrix, rng: Generator, bounded: bool = False, confidence: float = 0.95) -> Estimate:
    """The mean of ``outcomes`` (seeds, prompts) with an interval.

    For ``bounded`` outcomes (within [0, 1]) of one seed, or that all agree, so that resampling shows no spread: the
    Wilson interval for as many trials as there are prompts, which captures prompts only. Otherwise percentiles of the
    two-level bootstrap, which capture prompts and, given two or more seeds, seeds (see there for how well).
    """
    observed = outcomes[~np.isnan(outcomes)]
    seeds, prompts = _used(outcomes)
    mean = float(observed.mean())
    if bounded and (seeds == 1 or np.ptp(observed) == 0):
        low, high = wilson(mean * prompts, prompts, confidence)
        return Estimate(mean, low, high, seeds, prompts, "wilson")
    low, high = _percentiles(two_level_bootstrap(outcomes, rng), confidence)
    return Estimate(mean, low, high, seeds, prompts, "bootstrap")


def paired_difference(first: Matrix, second: Matrix, rng: Generator, confidence: float = 0.95) -> Difference:
    """Mean of ``first - second``, both (seeds, prompts) with the same seeds and prompts in the same order.

    Captures the same as ``two_level_bootstrap``, applied to differences: what a seed (its start) or a prompt does to
    both methods alike cancels. The p-value inverts the interval: twice the smaller share of replicates on either side
    of 0, counting one replicate more so that it is never 0, and capped at 1. Its resolution is 2 / (replicates + 1).
    """
    if first.shape != second.shape:
        raise ValueError(
            f"paired_difference needs the same seeds and prompts, got shapes {first.shape}, {second.shape}"
        )
    differences = first - second
    replicates = two_level_bootstrap(differences, rng, DIFFERENCE_REPLICATES)
    tail = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (replicates.size + 1))
    low, high = _percentiles(replicates, confidence)
    seeds, prompts = _used(differences)
    return Difference(float(np.nanmean(differences)), low, high, p_value, seeds, prompts)


def expected_best(scores: Matrix) -> Matrix:
    """(..., trials): the expected best score of n = 1, 2, ... trials, of which the first is fixed and the others drawn.

    ``scores`` is (..., trials), the fixed one (a default) first; the others are independent draws from a space. The
    mean is taken over all choices of n - 1 of the m others:

        sum over i of max(s_0, s_(i)) C(i-1, n-2) / C(m, n-1),    s_(1) <= ... <= s_(m),

    which is unbiased for the expected best of n trials (Tang et al. 2020, "Showing Your Work Doesn't Always Work",
    arXiv 2004.13705; the plug-in estimator of Dodge et al. 2019, "Show Your Work", arXiv 1909.03004, is too low). It
    does not depend on the order in which the others were tried.
    """
    others = np.sort(np.maximum(scores[..., 1:], scores[..., :1]), axis=-1)
    m = others.shape[-1]
    weights = [[math.comb(i, n - 1) / math.comb(m, n) for i in range(m)] for n in range(1, m + 1)]
    return np.concatenate([scores[..., :1], others @ np.reshape(weights, (m, m)).T], axis=-1)


def best_of_trials(outcomes: Matrix, rng: Generator, confidence: float = 0.95) -> BestOfTrials:
    """``expected_best`` of the mean scores of ``outcomes`` (trials, prompts), with an interval.

    Captures the draw of prompts, which all trials share, and that of the settings that were tried (bootstrap of both,
    percentiles); not the training seed, of which tuning has one. The best of noisy scores is higher than the score of
    the best, which nothing here corrects. Coverage of the expected best *true* score, measured with 8 trials and 128
    prompts: 94% and above where settings differ by much more than the noise of a score, 89% and above where by about as
    much; where they do not differ at all it falls from 95% for the first trial to 51% for the best of eight.

    A trial without any outcome (NaN: it diverged) counts as the worst one that has some.
    """
    trials, prompts = outcomes.shape
    observed = ~np.isnan(outcomes)
    lost: NDArray[np.bool_] = ~np.asarray(observed.any(axis=1))
    if lost.all():
        raise ValueError("best_of_trials needs at least one outcome that is not NaN")
    weights = _resampling_counts(prompts, prompts, REPLICATES, rng)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(observed, outcomes, 0.0).T) / (weights @ observed.T.astype(float))
    others = rng.integers(1, trials, size=(REPLICATES, trials - 1)) if trials > 1 else np.empty((REPLICATES, 0), int)
    chosen = np.concatenate([np.zeros((REPLICATES, 1), dtype=int), others], axis=1)
    replicates = expected_best(np.take_along_axis(_with_lost(means, lost), chosen, axis=1))
    low, high = np.quantile(replicates, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    scores = np.array([np.nan if gone else np.nanmean(row) for gone, row in zip(lost, outcomes, strict=True)])
    return BestOfTrials(expected_best(_with_lost(scores, lost)), low, high)


def _with_lost(scores: Matrix, lost: NDArray[np.bool_]) -> Matrix:
    worst = scores[..., ~lost].min(axis=-1, keepdims=True)
    return np.where(lost, worst, scores)


def holm(p_values: NDArray[np.float64] | list[float]) -> Matrix:
    """Holm's step-down adjusted p-values (1979, Scand. J. Statist. 6:65), in the order given.

    Rejecting where the adjusted value is below alpha keeps the chance of *any* false rejection in the family below
    alpha.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _resampling_counts(n: int, draws: int, replicates: int, rng: Generator) -> Matrix:
    """(replicates, n): how often each of n items is drawn in ``draws`` draws with replacement."""
    chosen = rng.integers(n, size=(replicates, draws)) + n * np.arange(replicates)[:, None]
    return np.bincount(chosen.ravel(), minlength=replicates * n).reshape(replicates, n).astype(float)


def _percentiles(replicates: Matrix, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(replicates, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def _used(outcomes: Matrix) -> tuple[int, int]:
    observed = ~np.isnan(outcomes)
    return int(observed.any(axis=1).sum()), int(observed.any(axis=0).sum())
