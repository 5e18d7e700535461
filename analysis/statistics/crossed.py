"""Seeds crossed with prompts: how far a mean may be from the truth, from the spread of both and of single answers.

The model is the two-way one with random effects, y[s, p] = mean + seed[s] + prompt[p] + answer[s, p], in which

    Var(mean) = seed / S + prompt / P + answer / (S P)

(Searle, Casella & McCulloch 1992, *Variance Components*, chapter 4). All seeds answer the same prompts. The
resampling of both (pigeonhole bootstrap, Owen 2007) counts the noise of answers three times where it dominates
(measured coverage of nominal 95%: 97 to 99%) and cannot go beyond what two seeds show (78%), so nothing here resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Matrix = NDArray[np.float64]

SMALLEST_P_VALUE = 1e-12
LEAST_CONFIDENCE = 1e-6
"""Intervals with less are taken for this one, whose ends are as good as equal: quantiles so near 0 are rounded away."""
LEAST_SEED_SPREAD = 0.01
"""Of the variance that the noise of answers alone gives: seeds that agree by chance make no interval vanish."""
FISHER_POWER = 4
"""How abruptly Fisher's solution takes over from Welch's; the best whole number for nominal 95% with two seeds."""
_BISECTIONS = 45
_PASSES = 25
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_FOURTH_ROOTS = (_NODES + 1) / 2
_PROBABILITIES = _FOURTH_ROOTS**4
_PROBABILITY_WEIGHTS = 2 * _FOURTH_ROOTS**3 * _WEIGHTS
"""Gauss-Legendre nodes for an expectation over a uniform probability, dense near 0, where a chi-square is tiny."""


@dataclass(frozen=True)
class Crossed:
    """A mean over (seeds, prompts) and what moves it; all fields have the shape of the studies, () for one.

    ``seed``, ``prompt``, ``answer`` are the mean squares of the two-way layout divided by the number of outcomes. Their
    expectations, in terms of the variances of the model: answer = v_answer / (S P), seed = v_seed / S + answer, and
    prompt = v_prompt / P + answer. ``third`` is the third central moment of the mean, as far as prompts cause it.
    """

    mean: Matrix
    seed: Matrix
    prompt: Matrix
    answer: Matrix
    third: Matrix
    seeds: Matrix
    prompts: Matrix

    @property
    def seed_part(self) -> Matrix:
        """Variance of the mean that an interval attributes to seeds and answers; 0 with one seed."""
        return np.where(self.seeds > 1, np.maximum(self.seed, LEAST_SEED_SPREAD * self.answer), 0.0)

    @property
    def prompt_part(self) -> Matrix:
        """Variance of the mean that an interval attributes to prompts (with one seed: and to answers)."""
        return np.where(self.prompts > 1, np.maximum(self.prompt - self.answer, 0.0), 0.0)

    @property
    def variance(self) -> Matrix:
        """Variance of the mean: unbiased but for what keeps it from vanishing."""
        return self.seed_part + self.prompt_part

    @property
    def skewness(self) -> Matrix:
        """Skewness of the mean, from the prompts; of no less variance than these have, whatever a few seeds show."""
        scale = np.maximum(self.variance, self.prompt) ** 1.5
        return np.divide(self.third, scale, out=np.zeros_like(scale), where=scale > 0)

    def half_width(self, confidence: float) -> Matrix:
        """Half the width of the symmetric interval; infinite where a single outcome shows no spread."""
        return critical_width(self.seed_part, self.prompt_part, self.seeds - 1, self.prompts - 1, 1 - confidence)

    def interval(self, confidence: float = 0.95) -> tuple[Matrix, Matrix]:
        """Lower and upper end for the true mean over all seeds (of one seed: of that seed) and prompts.

        ``half_width``, bent for skewness by Hall's cubic transformation (1992, JRSS B 54:221), whose inverse is
        (3 / a) ((1 + a (y - a / 6))^(1/3) - 1) for a mean of skewness a. It is of normal deviates y: what few seeds add
        to the width has nothing to do with the skewness of prompts, and stretches both sides alike.
        """
        below, above = self._sides(confidence)
        low, high = self.mean - below, self.mean + above
        single = (self.seeds <= 1) & (self.prompts <= 1)
        return np.where(single, -np.inf, low), np.where(single, np.inf, high)

    def p_value(self, value: float = 0.0) -> float:
        """Two-sided p-value of the hypothesis that the true mean is ``value``: 1 - confidence of the interval that just
        reaches it. For one study. At least ``SMALLEST_P_VALUE``.
        """
        if self.mean == value or (self.seeds <= 1 and self.prompts <= 1):
            return 1.0
        if self.variance == 0:
            return SMALLEST_P_VALUE
        # Skewness moves the middle of the interval away from the mean: which end meets ``value`` is told from there.
        distance = float(self.mean) - value
        side, reach = (0, distance) if distance > float(self._sides(LEAST_CONFIDENCE)[0]) else (1, -distance)

        def excess(log_alpha: float) -> float:
            return float(self._sides(1 - np.exp(log_alpha))[side]) - reach

        least, most = np.log(SMALLEST_P_VALUE), np.log1p(-LEAST_CONFIDENCE)
        if excess(least) <= 0:
            return SMALLEST_P_VALUE
        if excess(most) >= 0:
            return 1.0
        return float(np.exp(optimize.brentq(excess, least, most, xtol=1e-12)))

    def _sides(self, confidence: float) -> tuple[Matrix, Matrix]:
        """How far the interval reaches below and above the mean."""
        confidence = max(confidence, LEAST_CONFIDENCE)
        normal = special.ndtri((1 + confidence) / 2)
        width, skewness = self.half_width(confidence) / normal, self.skewness
        return width * _unbend(normal, skewness), -width * _unbend(-normal, skewness)


def crossed(outcomes: Matrix) -> Crossed:
    """The spread of ``outcomes`` (..., seeds, prompts), NaN where an answer is missing.

    Seeds and prompts without any outcome do not count. With missing answers the mean squares are those of
    cluster-robust variances, clustered by seed and by prompt (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat.
    29:238), and the noise of answers is what an additive fit leaves; without, both are the classical mean squares.
    """
    values = np.asarray(outcomes, dtype=float)
    observed = ~np.isnan(values)
    count = observed.sum(axis=(-2, -1)).astype(float)
    if not (count > 0).all():
        raise ValueError("a mean needs at least one outcome that is not NaN")
    seeds = observed.any(axis=-1).sum(axis=-1).astype(float)
    prompts = observed.any(axis=-2).sum(axis=-1).astype(float)
    mean = np.where(observed, values, 0.0).sum(axis=(-2, -1)) / count
    centred = np.where(observed, values - mean[..., None, None], 0.0)
    by_seed, by_prompt = centred.sum(axis=-1), centred.sum(axis=-2)
    seed = (by_seed**2).sum(axis=-1) / count**2 * _inflation(seeds)
    prompt = (by_prompt**2).sum(axis=-1) / count**2 * _inflation(prompts)
    freedom = count - seeds - prompts + 1
    squares = (_left_by_additive_fit(centred, observed) ** 2).sum(axis=(-2, -1))
    answer = squares / np.maximum(freedom, 1.0) / count
    third = (by_prompt**3).sum(axis=-1) / count**3 * _inflation(prompts) * prompts / np.maximum(prompts - 2, 1.0)
    both = (seeds > 1) & (prompts > 1)
    return Crossed(mean, seed, prompt, np.where(both, answer, 0.0), third, seeds, prompts)


def critical_width(seed_part: Matrix, prompt_part: Matrix, seed_df: Matrix, prompt_df: Matrix, alpha: float) -> Matrix:
    """The deviation of a mean from its truth that is exceeded with probability ``alpha``; all arguments broadcast.

    ``seed_part`` and ``prompt_part`` are estimates of two variances that add up, with their degrees of freedom. Where
    one is 0 this is Student's t. In between it is the Behrens-Fisher problem: Welch's t with Satterthwaite degrees of
    freedom is too short with very few of them, Fisher's own solution (the sum of two scaled t, here a normal mixture
    over the chi-square of the seeds) too long by about as much. Their geometric mean is taken. Fisher's has the weight
    1 / (1 + r^FISHER_POWER), where r is prompt_part over seed_part, each times its own critical value of Student's t:
    so it takes over at the smaller shares of the seeds the fewer they are, and the smaller ``alpha`` is.

    For many prompts the coverage of nominal 95% is 94.2 to 96.4 with two seeds whatever their share, 95.0 to 95.6 with
    three, 95.0 to 95.6 with five (an integral over the chi-square of the seeds: benchmarks/coverage.py --only width).
    """
    seed_part, prompt_part, seed_df, prompt_df = np.broadcast_arrays(
        *(np.asarray(part, dtype=float) for part in (seed_part, prompt_part, seed_df, prompt_df))
    )
    seed_df, prompt_df = np.maximum(seed_df, 1.0), np.maximum(prompt_df, 1.0)
    total = seed_part + prompt_part
    loss = seed_part**2 / seed_df + prompt_part**2 / prompt_df
    freedom = np.divide(total**2, loss, out=np.ones_like(total), where=loss > 0)
    welch = np.sqrt(total) * special.stdtrit(freedom, 1 - alpha / 2)
    mixed = (seed_part > 0) & (prompt_part > 0)
    if not mixed.any():
        return welch
    width = np.array(welch)
    # Where alpha is 1 but for rounding, Student's t may be 0.
    seed_t, prompt_t = (
        np.maximum(special.stdtrit(degrees[mixed], 1 - alpha / 2), 1e-12) for degrees in (seed_df, prompt_df)
    )
    stretch = prompt_t / special.ndtri(1 - alpha / 2)
    fisher = _mixture_quantile(seed_part[mixed], prompt_part[mixed] * stretch**2, seed_df[mixed], alpha)
    weight = special.expit(FISHER_POWER * np.log(seed_part[mixed] * seed_t / (prompt_part[mixed] * prompt_t)))
    width[mixed] = welch[mixed] ** (1 - weight) * fisher**weight
    return width


def _mixture_quantile(scaled: Matrix, fixed: Matrix, freedom: Matrix, alpha: float) -> Matrix:
    """What |sqrt(scaled) t + sqrt(fixed) z| exceeds with probability ``alpha``; all (n,)."""
    chi_squares = np.stack([_chi_square_nodes(degrees) for degrees in freedom.tolist()])
    spread = np.sqrt(scaled[:, None] * freedom[:, None] / np.maximum(chi_squares, 1e-300) + fixed[:, None])
    t, z = special.stdtrit(freedom, 1 - alpha / 2), special.ndtri(1 - alpha / 2)
    low = np.zeros_like(scaled)
    high = 2 * (t * np.sqrt(scaled) + z * np.sqrt(fixed))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        beyond = 2 * special.ndtr(-middle[:, None] / spread) @ _PROBABILITY_WEIGHTS > alpha
        low, high = np.where(beyond, middle, low), np.where(beyond, high, middle)
    return (low + high) / 2


@lru_cache(maxsize=1024)  # takes most of the time of an interval, and a sweep has few numbers of seeds
def _chi_square_nodes(freedom: float) -> Matrix:
    nodes: Matrix = special.chdtri(freedom, 1 - _PROBABILITIES)
    return nodes


def _unbend(y: Matrix, skewness: Matrix) -> Matrix:
    small = np.abs(skewness) < 1e-6
    a = np.where(small, 1.0, skewness)
    return np.where(small, y, 3 / a * (np.cbrt(1 + a * (y - a / 6)) - 1))


def _inflation(n: Matrix) -> Matrix:
    """n / (n - 1), and 0 for n = 1: a single one shows no spread."""
    return np.where(n > 1, n / np.maximum(n - 1, 1.0), 0.0)


def _left_by_additive_fit(centred: Matrix, observed: NDArray[np.bool_]) -> Matrix:
    """Residuals after effects of seed and prompt; a few alternating passes where answers are missing."""
    rows = np.maximum(observed.sum(axis=-1, keepdims=True), 1)
    columns = np.maximum(observed.sum(axis=-2, keepdims=True), 1)
    left = centred
    for _ in range(1 if observed.all() else _PASSES):
        left = np.where(observed, left - left.sum(axis=-1, keepdims=True) / rows, 0.0)
        left = np.where(observed, left - left.sum(axis=-2, keepdims=True) / columns, 0.0)
    return left
