"""The win rate that a method would have at the length of what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.statistics.crossed import Matrix, crossed

_STEPS = 50
_LARGEST = 30.0


@dataclass(frozen=True)
class LengthControlled:
    """Win rates within [0, 1]: ``value`` at equal length with its interval, ``raw`` as observed.

    ``length_effect`` is the coefficient of tanh(length difference / its standard deviation), in log-odds.
    """

    value: float
    low: float
    high: float
    raw: float
    length_effect: float
    seeds: int
    prompts: int


def length_controlled_win_rate(
    preferences: Matrix, tokens: Matrix, reference_tokens: Matrix, confidence: float = 0.95
) -> LengthControlled:
    """Win rate at equal length, from ``preferences`` (win 1, tie 1/2, loss 0 or in between), ``tokens`` and
    ``reference_tokens``, all (seeds, prompts).

    The idea of Dubois et al. 2024 ("Length-Controlled AlpacaEval", arXiv 2404.04475) without their terms for the
    difficulty of AlpacaEval's own questions, so that it needs nothing but a record:

        P(win) = logistic(theta + phi tanh((tokens - reference_tokens) / sd)),    win rate = logistic(theta),

    fitted by maximum likelihood, with sd the standard deviation of the length differences. Numbers on AlpacaEval's
    questions that are to be compared with its leaderboard come from evaluation.prompts=alpaca_eval instead.

    The interval is of theta, from the mean influence of each prompt and seed (a sandwich): it captures the error of the
    fit, the draw of prompts and, given two or more seeds, of training seeds. It takes for granted that length acts as
    the model says, and that it is what length does rather than what makes answers both long and good.
    """
    values, ours, theirs = (np.asarray(part, dtype=float) for part in (preferences, tokens, reference_tokens))
    if not values.shape == ours.shape == theirs.shape or values.ndim != 2:
        raise ValueError(
            "length_controlled_win_rate needs preferences, tokens and reference_tokens of the same shape (seeds, "
            f"prompts), got {values.shape}, {ours.shape} and {theirs.shape}"
        )
    longer = ours - theirs
    known = ~(np.isnan(values) | np.isnan(longer))
    wins, difference = values[known], longer[known]
    if wins.size < 3 or not (wins.min() >= 0 and wins.max() <= 1):
        raise ValueError("length_controlled_win_rate needs three or more preferences, all between 0 and 1")
    deviation = difference.std()
    length = np.tanh(difference / deviation) if deviation > 0 else np.zeros_like(difference)
    columns = np.stack([np.ones_like(length), length], axis=1)[:, : 2 if deviation > 0 else 1]
    coefficients = _fit(columns, wins)
    chances = special.expit(columns @ coefficients)
    information = (columns * (chances * (1 - chances))[:, None]).T @ columns
    moves = np.linalg.solve(information, (columns * (wins - chances)[:, None]).T)[0] * wins.size
    influence = np.full(values.shape, np.nan)
    influence[known] = moves
    spread = crossed(influence)
    low, high = special.expit(coefficients[0] + np.array(spread.interval(confidence)))
    effect = float(coefficients[1]) if deviation > 0 else 0.0
    rate = float(special.expit(coefficients[0]))
    return LengthControlled(
        rate, float(low), float(high), float(wins.mean()), effect, int(spread.seeds), int(spread.prompts)
    )


def _fit(columns: Matrix, wins: Matrix) -> Matrix:
    """Logistic regression by Newton's method, with halved steps; the likelihood is concave."""
    coefficients = np.zeros(columns.shape[1])

    def likelihood(at: Matrix) -> float:
        scores = columns @ at
        return float(wins @ special.log_expit(scores) + (1 - wins) @ special.log_expit(-scores))

    current = likelihood(coefficients)
    for _ in range(_STEPS):
        chances = special.expit(columns @ coefficients)
        information = (columns * (chances * (1 - chances))[:, None]).T @ columns
        step = np.linalg.lstsq(information, columns.T @ (wins - chances), rcond=None)[0]
        size = 1.0
        while likelihood(coefficients + size * step) < current - 1e-9 * abs(current) and size > 1e-6:
            size /= 2
        coefficients = coefficients + size * step
        current = likelihood(coefficients)
        if np.abs(coefficients).max() > _LARGEST or not np.isfinite(current):
            break
        if np.abs(step).max() < 1e-10:
            return coefficients
    raise ValueError(
        "no length-controlled win rate: length, or the method, decides every comparison, so that the fit has no "
        "maximum; use the raw win rate, or more prompts"
    )
