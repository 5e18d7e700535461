"""The best of several trials of a tuning, and how far it may be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from analysis.statistics.crossed import Matrix

REPLICATES = 4000


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
    does not depend on the order in which the others were tried.
    """
    others = np.sort(np.maximum(scores[..., 1:], scores[..., :1]), axis=-1)
    m = others.shape[-1]
    weights = [[math.comb(i, n - 1) / math.comb(m, n) for i in range(m)] for n in range(1, m + 1)]
    return np.concatenate([scores[..., :1], others @ np.reshape(weights, (m, m)).T], axis=-1)


def best_of_trials(
    outcomes: Matrix, rng: Generator, confidence: float = 0.95, replicates: int = REPLICATES
) -> BestOfTrials:
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
    weights = _resampling_counts(prompts, prompts, replicates, rng)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(observed, outcomes, 0.0).T) / (weights @ observed.T.astype(float))
    others = rng.integers(1, trials, size=(replicates, trials - 1)) if trials > 1 else np.empty((replicates, 0), int)
    chosen = np.concatenate([np.zeros((replicates, 1), dtype=int), others], axis=1)
    drawn = expected_best(np.take_along_axis(_with_lost(means, lost), chosen, axis=1))
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    scores = np.array([np.nan if gone else np.nanmean(row) for gone, row in zip(lost, outcomes, strict=True)])
    return BestOfTrials(expected_best(_with_lost(scores, lost)), low, high)


def _with_lost(scores: Matrix, lost: NDArray[np.bool_]) -> Matrix:
    worst = scores[..., ~lost].min(axis=-1, keepdims=True)
    return np.where(lost, worst, scores)


def _resampling_counts(n: int, draws: int, replicates: int, rng: Generator) -> Matrix:
    """(replicates, n): how often each of n items is drawn in ``draws`` draws with replacement."""
    chosen = rng.integers(n, size=(replicates, draws)) + n * np.arange(replicates)[:, None]
    return np.bincount(chosen.ravel(), minlength=replicates * n).reshape(replicates, n).astype(float)
