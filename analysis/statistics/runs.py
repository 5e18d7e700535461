"""Summaries over runs that a few of them cannot dominate: Agarwal et al. 2021, "Deep RL at the Edge of the
Statistical Precipice" (arXiv 2108.13264), section 4.

Each is, to first order, a mean of influences: of what one outcome adds to it (Hampel 1974, JASA 69:383). Intervals are
those of the mean of influences, so they know of seeds and prompts what ``estimate`` does; where Agarwal et al.
resample runs within tasks, prompts or tasks count as drawn, too.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from analysis.statistics.crossed import Matrix, crossed
from analysis.statistics.means import Estimate, bounded_interval, estimate


def interquartile_mean(outcomes: Matrix) -> Matrix:
    """The mean of the middle half of ``outcomes`` (..., seeds, prompts), sorted all together; NaN where missing is
    refused. Where a quarter is not whole, the outcomes at its edge count in part."""
    flat = _complete(outcomes)
    n = flat.shape[-1]
    # How much of [i/n, (i+1)/n] lies within the middle half.
    edges = np.arange(n + 1) / n
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None) * 2
    return np.sort(flat, axis=-1) @ weights


def interquartile_mean_estimate(outcomes: Matrix, confidence: float = 0.95) -> Estimate:
    """``interquartile_mean`` of (seeds, prompts) with an interval from its influences, twice the outcomes clipped
    at the quartiles. Captures prompts and, given two or more seeds, training seeds."""
    low, high = interquartile_mean_interval(outcomes, confidence)
    seeds, prompts = np.shape(outcomes)
    return Estimate(float(interquartile_mean(outcomes)), float(low), float(high), seeds, prompts, "crossed")


def interquartile_mean_interval(outcomes: Matrix, confidence: float = 0.95) -> tuple[Matrix, Matrix]:
    """Lower and upper end for ``outcomes`` (..., seeds, prompts)."""
    flat = _complete(outcomes)
    quartiles = np.quantile(flat, [0.25, 0.75], axis=-1)[..., None, None]
    influences = 2 * np.clip(outcomes, quartiles[0], quartiles[1])
    low, high = crossed(influences).interval(confidence)
    shift = interquartile_mean(outcomes) - influences.mean(axis=(-2, -1))
    return low + shift, high + shift


def performance_profile(outcomes: Matrix, thresholds: Matrix, confidence: float = 0.95) -> list[Estimate]:
    """The share of ``outcomes`` (seeds, prompts) above each threshold, with pointwise intervals (Agarwal et al., 4.2).

    Captures prompts and, given two or more seeds, training seeds, at each threshold on its own, not for the whole
    curve.
    """
    values = np.asarray(outcomes, dtype=float)
    return [
        estimate(np.where(np.isnan(values), np.nan, values > threshold), bounded=True, confidence=confidence)
        for threshold in np.asarray(thresholds, dtype=float)
    ]


def probability_of_improvement(first: Matrix, second: Matrix, confidence: float = 0.95) -> Estimate:
    """How often a run of the first method beats one of the second on the same prompt; ties count half.

    ``first`` and ``second`` are (seeds, prompts), with the same prompts; the seeds need not match. For each prompt the
    share of all pairs of runs (Mann & Whitney 1947; Agarwal et al., section 4.3), then the mean over prompts. The
    interval captures the draw of prompts and, where both have two or more seeds, of training seeds: it adds what each
    method's runs contribute to the variance (Hoeffding's decomposition). With one seed each it captures prompts only.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"probability_of_improvement needs the same prompts for both, got shapes {first.shape} and {second.shape}"
        )
    low, high = improvement_interval(first, second, confidence)
    seeds = min(first.shape[0], second.shape[0])
    return Estimate(float(_wins(first, second).mean()), float(low), float(high), seeds, first.shape[1], "crossed")


def improvement_interval(first: Matrix, second: Matrix, confidence: float = 0.95) -> tuple[Matrix, Matrix]:
    """Lower and upper end for (..., seeds, prompts) each, within [0, 1]."""
    if np.isnan(first).any() or np.isnan(second).any():
        raise ValueError("probability_of_improvement needs every outcome; leave out prompts that are NaN for some run")
    wins = _wins(first, second)
    if first.shape[-2] == second.shape[-2] == 1:
        return bounded_interval(wins[..., 0, :, :], confidence)
    return _two_sample_interval(wins, confidence)


def _two_sample_interval(wins: Matrix, confidence: float) -> tuple[Matrix, Matrix]:
    """For wins (..., first seeds, second seeds, prompts): each method's seeds are a sample of their own."""
    value = wins.mean(axis=(-3, -2, -1))
    parts, losses = [], []
    answer = np.zeros_like(value)
    for axis in (-2, -3):
        spread = crossed(wins.mean(axis=axis))
        parts.append(spread.seed_part)
        losses.append(spread.seed_part**2 / np.maximum(spread.seeds - 1, 1))
        answer = answer + spread.answer
        prompt, prompts = spread.prompt, spread.prompts
    parts.append(np.maximum(prompt - answer, 0.0))
    losses.append(parts[-1] ** 2 / (prompts - 1))
    variance = np.sum(parts, axis=0)
    loss = np.sum(losses, axis=0)
    freedom = np.divide(variance**2, loss, out=np.ones_like(variance), where=loss > 0)
    spread_of_logit = value * (1 - value)
    some = (variance > 0) & (spread_of_logit > 0)
    # On the scale of log-odds, where a probability has no ends to run into.
    safe = np.where(some, value, 0.5)
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * np.sqrt(variance) / np.where(some, spread_of_logit, 1.0)
    low, high = special.expit(special.logit(safe) - half), special.expit(special.logit(safe) + half)
    bounds = bounded_interval(wins.mean(axis=-3)[..., :1, :], confidence)
    return np.where(some, low, bounds[0]), np.where(some, high, bounds[1])


def _wins(first: Matrix, second: Matrix) -> Matrix:
    left, right = first[..., :, None, :], second[..., None, :, :]
    return (left > right) + 0.5 * (left == right)


def _complete(outcomes: Matrix) -> Matrix:
    values = np.asarray(outcomes, dtype=float)
    if np.isnan(values).any():
        raise ValueError("the interquartile mean needs every outcome; leave out prompts that are NaN for some seed")
    return values.reshape(*values.shape[:-2], -1)
