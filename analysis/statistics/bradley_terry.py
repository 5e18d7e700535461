"""Ratings of several methods from preferences between pairs of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.sparse.csgraph import connected_components

from analysis.statistics.crossed import Matrix, crossed

_STEPS = 100
ELO = 400 / np.log(10)
"""Points of an Elo scale per unit of log-odds."""


@dataclass(frozen=True)
class Ratings:
    """Log-odds of winning against the baseline, whose rating is 0; all arrays are (methods,). Times ``ELO``: points."""

    value: Matrix
    low: Matrix
    high: Matrix
    seeds: int
    prompts: int


def bradley_terry(preferences: Matrix, baseline: int = 0, confidence: float = 0.95) -> Ratings:
    """Ratings that maximise the likelihood of P(i beats j) = logistic(rating_i - rating_j).

    ``preferences`` is (methods, methods, seeds, prompts) or, for one seed, (methods, methods, prompts): entry i, j is 1
    where i won against j, 0 where it lost, 1/2 for a tie (half a win of each), NaN where they were not compared. Only
    one of i, j and j, i needs to be given; if both are, they must add up to 1.

    The model: Bradley & Terry 1952 (Biometrika 39:324); no regularisation. Its scale is fixed by the ``baseline``,
    whose rating is 0 with no interval. The maximum exists only if no group of methods wins, or loses, every comparison
    with the rest (Ford 1957, Amer. Math. Monthly 64:28); otherwise a ValueError says which group. Intervals are those
    of the mean influence of each prompt and seed (a sandwich: a prompt that several comparisons share counts once), so
    they capture the draw of prompts and, given two or more seeds, of training seeds, and hold where the model does not.
    """
    values = _checked(preferences, baseline)
    methods, _, seeds, prompts = values.shape
    known = ~np.isnan(values)
    wins = np.where(known, values, 0.0).sum(axis=(2, 3))
    games = known.sum(axis=(2, 3)).astype(float)
    ratings = _fit(wins, games, baseline)
    free = np.arange(methods) != baseline
    chances = special.expit(ratings[:, None] - ratings[None, :])
    information = _information(chances, games)[np.ix_(free, free)]
    scores = np.where(known, values - chances[..., None, None], 0.0).sum(axis=1)
    compared: NDArray[np.bool_] = np.any(known, axis=(0, 1))
    n = compared.sum()
    moves = np.linalg.solve(information, scores[free].reshape(free.sum(), -1)).reshape(-1, seeds, prompts) * n
    low, high = crossed(np.where(compared, moves, np.nan)).interval(confidence)
    bounds = np.zeros((2, methods))
    bounds[:, free] = low + ratings[free], high + ratings[free]
    used = int(compared.any(axis=1).sum()), int(compared.any(axis=0).sum())
    return Ratings(ratings, bounds[0], bounds[1], *used)


def _fit(wins: Matrix, games: Matrix, baseline: int) -> Matrix:
    """Newton's method on the log-likelihood, which is concave; steps are halved where they overshoot."""
    _require_connected(wins)
    methods = len(wins)
    free = np.arange(methods) != baseline
    ratings = np.zeros(methods)

    def likelihood(at: Matrix) -> float:
        return float((wins * special.log_expit(at[:, None] - at[None, :])).sum())

    current = likelihood(ratings)
    for _ in range(_STEPS):
        chances = special.expit(ratings[:, None] - ratings[None, :])
        slope = (wins - games * chances).sum(axis=1)[free]
        step = np.zeros(methods)
        step[free] = np.linalg.solve(_information(chances, games)[np.ix_(free, free)], slope)
        size = 1.0
        while likelihood(ratings + size * step) < current - 1e-9 * abs(current) and size > 1e-6:
            size /= 2
        ratings = ratings + size * step
        current = likelihood(ratings)
        if np.abs(step).max() < 1e-10:
            break
    return ratings


def _information(chances: Matrix, games: Matrix) -> Matrix:
    weights = games * chances * (1 - chances)
    return np.diag(weights.sum(axis=1)) - weights


def _require_connected(wins: Matrix) -> None:
    """Every method must be reachable from every other by a chain of wins."""
    count, group = connected_components(wins > 0, directed=True, connection="strong")
    if count > 1:
        groups = [np.flatnonzero(group == one).tolist() for one in range(count)]
        told = "; ".join(str(members) for members in sorted(groups))
        raise ValueError(
            f"no finite ratings: between the groups of methods {told} (by index) there are no comparisons, or one "
            "group wins all of them. Compare them on more prompts, or rate each group by itself"
        )


def _checked(preferences: Matrix, baseline: int) -> Matrix:
    values = np.array(preferences, dtype=float)
    if values.ndim == 3:
        values = values[:, :, None, :]
    if values.ndim != 4 or values.shape[0] != values.shape[1]:
        raise ValueError(f"preferences must be (methods, methods, [seeds,] prompts), got shape {np.shape(preferences)}")
    methods = values.shape[0]
    if not 0 <= baseline < methods:
        raise ValueError(f"baseline must be the index of one of {methods} methods, got {baseline}")
    values[np.arange(methods), np.arange(methods)] = np.nan
    if np.nanmin(values, initial=0.0) < 0 or np.nanmax(values, initial=1.0) > 1:
        raise ValueError("preferences must lie between 0 and 1")
    reverse = 1 - values.swapaxes(0, 1)
    both = ~np.isnan(values) & ~np.isnan(reverse)
    if not np.allclose(values[both], reverse[both]):
        raise ValueError("preferences of i over j and of j over i must add up to 1 on each prompt")
    return np.where(np.isnan(values), reverse, values)
