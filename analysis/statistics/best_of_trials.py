"""The best of several trials of a tuning, and how far it may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import special

from analysis.statistics.crossed import Matrix, crossed
from analysis.statistics.means import bounded_interval

REPLICATES = 20_000
_GRID = np.linspace(-8, 8, 1601)


@dataclass(frozen=True)
class BestOfTrials:
    """Expected best score of the first 1, 2, ... trials, with an interval for each; all arrays are (trials,)."""

    value: Matrix
    low: Matrix
    high: Matrix


def expected_best(scores: Matrix) -> Matrix:
    """(..., trials): the expected best score of n = 1, 2, ... trials, of which the first is fixed and the others drawn.

    ``scores`` is (..., trials), the fixed one (a default) first; the others are independent draws from a space. The
    mean is taken over all choices of n - 1 of the m others:

        sum over i of max(s_0, s_(i)) C(i-1, n-2) / C(m, n-1),    s_(1) <= ... <= s_(m),

    which is unbiased for the expected best of n trials (Tang et al. 2020, "Showing Your Work Doesn't Always Work",
    arXiv 2004.13705; the plug-in estimator of Dodge et al. 2019, "Show Your Work", arXiv 1909.03004, is too low). It
    does not depend on the order in which the others were tried. The best of noisy scores is higher than the score of
    the best, which nothing here corrects; ``best_of_trials`` does.
    """
    others = np.sort(np.maximum(scores[..., 1:], scores[..., :1]), axis=-1)
    m = others.shape[-1]
    weights = [[math.comb(i, n - 1) / math.comb(m, n) for i in range(m)] for n in range(1, m + 1)]
    return np.concatenate([scores[..., :1], others @ np.reshape(weights, (m, m)).T], axis=-1)


def best_of_trials(
    outcomes: Matrix,
    rng: Generator,
    *,
    bounded: bool = False,
    confidence: float = 0.95,
    replicates: int = REPLICATES,
) -> BestOfTrials:
    """The expected best *true* score of n = 1, 2, ... trials from ``outcomes`` (trials, prompts), with an interval.

    The first trial is fixed, the others are draws from a space. Value: ``expected_best`` of the scores, the drawn ones
    pulled towards their mean until they differ by no more than their true scores do (the variance of scores less that
    of noise). Without this the best of several noisy scores is too high, and the more so the less settings matter.

    Interval: captures the draw of prompts, which all trials share, and that of the settings that were tried; not the
    training seed, of which tuning has one. That of the first trial alone is the one ``estimate`` gives. The others
    take the true scores of settings as normal, and are fiducial (generalised pivots, Weerahandi 1993, JASA 88:899):
    mean and spread of settings are drawn given what was seen, and each draw has an expected best. How often they hold
    the truth, and what it costs where settings are not normal, is in docs/tuning.md.

    Of two trials nothing is known about the spread of settings, so the best of both has no upper end. ``bounded``
    outcomes (within [0, 1]) have intervals within [0, 1]. A trial without any outcome (NaN: it diverged) counts as the
    worst one that has some.
    """
    complete = _with_lost(np.asarray(outcomes, dtype=float))
    trials, prompts = complete.shape
    scores = np.nanmean(complete, axis=1)
    first = bounded_interval(complete[None, :1], confidence) if bounded else crossed(complete[:1]).interval(confidence)
    low, high = np.full(trials, first[0]), np.full(trials, np.inf)
    high[0] = first[1].item()
    if trials > 2 and prompts > 1:
        errors = _errors(complete)
        noise = float(((errors[1:] - errors[1:].mean(axis=0)) ** 2).sum()) / (trials - 2)
        low[1:], high[1:] = _fiducial(scores, errors, noise, rng, 1 - confidence, replicates)
        scores = _without_noise(scores, noise)
    value = expected_best(scores)
    low, high = np.minimum(low, value), np.maximum(high, value)
    return BestOfTrials(value, *((np.maximum(low, 0.0), np.minimum(high, 1.0)) if bounded else (low, high)))


def _with_lost(outcomes: Matrix) -> Matrix:
    """``outcomes`` with those of the worst trial in place of a trial's that has none."""
    lost: NDArray[np.bool_] = np.asarray(np.isnan(outcomes).all(axis=1))
    if lost.all():
        raise ValueError("best_of_trials needs at least one outcome that is not NaN")
    worst = np.nanmean(outcomes[~lost], axis=1).argmin()
    return np.where(lost[:, None], outcomes[~lost][worst], outcomes)


def _errors(outcomes: Matrix) -> Matrix:
    """(trials, prompts): what each prompt adds to the error of each score; times its transpose, their covariance."""
    observed = ~np.isnan(outcomes)
    centred = np.where(observed, outcomes - np.nanmean(outcomes, axis=1, keepdims=True), 0.0)
    prompts = outcomes.shape[1]
    return centred / observed.sum(axis=1, keepdims=True) * math.sqrt(prompts / (prompts - 1))


def _without_noise(scores: Matrix, noise: float) -> Matrix:
    """Scores (trials,), the drawn ones with the variance that true scores have; ``noise`` is what noise adds to it."""
    drawn = scores[1:]
    seen = drawn.var(ddof=1)
    share = math.sqrt(max(0.0, 1 - noise / seen)) if seen > 0 else 0.0
    return np.concatenate([scores[:1], drawn.mean() + share * (drawn - drawn.mean())])


def _fiducial(
    scores: Matrix, errors: Matrix, noise: float, rng: Generator, alpha: float, replicates: int
) -> tuple[Matrix, Matrix]:
    """Ends for n = 2, 3, ... trials. Draws, all (replicates,), with m drawn settings seen with variance s^2:

        default = x_0 - e_0,    spread^2 = s^2 (m - 1) / chi2_(m-1) - noise,    mean = x - e - spread z / sqrt(m),

    where e_0 and e are errors of the default's score and of the mean of the others, which share prompts.

    Upper end: the quantile of the expected best of a draw. Its lower quantile would be too high where settings differ
    little, as the larger of two noisy numbers is too large, and a spread is never negative. But the expected best is at
    least the default, and at least the expected best of the others, plus what the mixture of both adds. So the lower
    end is the higher one of these two's, with spreads below 0 where noise explains more than all of s^2.
    """
    m, prompts = len(scores) - 1, errors.shape[1]
    sources = np.stack([errors[0], errors[1:].mean(axis=0)])
    error, shared = rng.multivariate_normal(np.zeros(2), sources @ sources.T, size=replicates).T
    student = np.sqrt((prompts - 1) / rng.chisquare(prompts - 1, replicates))
    square = scores[1:].var(ddof=1) * (m - 1) / rng.chisquare(m - 1, replicates) - noise
    signed = np.sign(square) * np.sqrt(np.abs(square))
    spread = np.maximum(signed, 0.0)
    default = scores[0] - student * error
    mean = scores[1:].mean() - student * shared - spread * rng.normal(size=replicates) / math.sqrt(m)
    behind = np.divide(default - mean, spread, out=np.zeros(replicates), where=spread > 0)
    larger = np.maximum(default, mean)
    lows, highs = np.empty(m), np.empty(m)
    for drawn in range(1, m + 1):
        gains = _gains(drawn)
        best = larger + spread * np.interp(behind, _GRID, gains)
        mixed = best - np.maximum(default, mean + spread * gains[0])
        either = np.stack([default, mean + signed * gains[0]]) + mixed
        lows[drawn - 1] = np.quantile(either, alpha / 2, axis=1).max()
        highs[drawn - 1] = np.quantile(best, 1 - alpha / 2)
    return lows, highs


@lru_cache
def _gains(drawn: int) -> Matrix:
    """E max(z, best of so many standard normals) - max(z, 0) for z on the grid: an integral of 1 - Phi^drawn from z."""
    beyond = 1 - special.ndtr(_GRID) ** drawn
    steps = (beyond[1:] + beyond[:-1]) / 2 * np.diff(_GRID)
    gains: Matrix = np.append(np.cumsum(steps[::-1])[::-1], 0.0) - np.maximum(-_GRID, 0.0)
    return gains
