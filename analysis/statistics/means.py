"""Means over seeds and prompts, and paired differences of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.statistics.crossed import Matrix, crossed
from analysis.statistics.difference import Difference
from analysis.statistics.proportions import critical_normal, score_interval


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, and what it rests on. ``method`` is "wilson" or "crossed"."""

    value: float
    low: float
    high: float
    seeds: int
    prompts: int
    method: str


def estimate(outcomes: Matrix, bounded: bool = False, confidence: float = 0.95) -> Estimate:
    """The mean of ``outcomes`` (seeds, prompts), NaN where missing, with an interval.

    Captures the draw of prompts and, given two or more seeds, that of training seeds, from the spread of both
    (``crossed``, ``critical_width``); with one seed it says nothing about another. With two seeds that matter it is
    12.7 standard errors wide on either side, because two draws tell that little.

    ``bounded`` outcomes (within [0, 1]) have Wilson's score interval for the number of yes/no trials that would have
    the same variance: p (1 - p) / Var(mean). It stays within [0, 1] and never vanishes. For one seed with outcomes 0
    and 1 it is ``wilson``. A single outcome that is not bounded has an infinite interval.
    """
    spread = crossed(outcomes)
    seeds, prompts, value = int(spread.seeds), int(spread.prompts), float(spread.mean)
    if bounded:
        low, high = bounded_interval(np.asarray(outcomes)[None], confidence)
        return Estimate(value, float(low[0]), float(high[0]), seeds, prompts, "wilson" if seeds == 1 else "crossed")
    bounds = spread.interval(confidence)
    return Estimate(value, float(bounds[0]), float(bounds[1]), seeds, prompts, "crossed")


def bounded_interval(outcomes: Matrix, confidence: float = 0.95) -> tuple[Matrix, Matrix]:
    """Lower and upper ends, each (studies,), for outcomes within [0, 1] of shape (studies, seeds, prompts)."""
    observed = np.asarray(outcomes)[~np.isnan(outcomes)]
    if observed.size and not (observed.min() >= 0 and observed.max() <= 1):
        raise ValueError(
            f"bounded outcomes lie within [0, 1], got values from {observed.min():g} to {observed.max():g}; "
            "use bounded=False for others"
        )
    spread = crossed(outcomes)
    # Wilson's interval knows the variance given the rate, so one seed needs neither n - 1 nor Student's t.
    single = spread.seeds == 1
    variance = np.where(single, spread.prompt * (spread.prompts - 1) / spread.prompts, spread.variance)
    some = variance > 0
    trials = np.divide(spread.mean * (1 - spread.mean), variance, out=np.array(spread.prompts), where=some)
    normal = critical_normal(confidence)
    student = np.divide(spread.half_width(confidence), np.sqrt(variance), out=np.full_like(trials, normal), where=some)
    return score_interval(spread.mean, trials, np.where(single, normal, student))


def paired_difference(first: Matrix, second: Matrix, confidence: float = 0.95) -> Difference:
    """Mean of ``first - second``, both (seeds, prompts) with the same seeds and prompts in the same order.

    Captures what ``estimate`` does, applied to differences: what a seed (its start) or a prompt does to both methods
    alike cancels. The p-value inverts the interval: it is 1 - confidence of the interval that just reaches 0.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape:
        raise ValueError(
            f"paired_difference needs the same seeds and prompts, got shapes {first.shape}, {second.shape}"
        )
    return mean_difference(first - second, confidence)


def mean_difference(differences: Matrix, confidence: float = 0.95) -> Difference:
    """The mean of ``differences`` (seeds, prompts) with interval and p-value; see ``paired_difference``."""
    spread = crossed(differences)
    low, high = spread.interval(confidence)
    return Difference(
        float(spread.mean), float(low), float(high), spread.p_value(), int(spread.seeds), int(spread.prompts)
    )
