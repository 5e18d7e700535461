"""Whether probabilities mean what they say: calibration error, the scale of a reward, partial correlation.

Pure numbers, as in ``analysis.statistics``. Matrices are (seeds, examples); all seeds have the same examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from scipy.optimize import brentq
from scipy.special import erf, expit

from analysis.statistics import REPLICATES, Estimate, Matrix

BINS = 10
PER_BIN = 20
"""Examples that a bin has at least: with fewer there are fewer bins."""
STEEPEST = 1e3
"""Largest scale that is fitted, over the standard deviation of the margins: that of examples without a mistake."""
Statistic = Callable[[Matrix], Matrix]
"""From (replicates, examples) weights to (replicates,) values."""


def bins_of(examples: int) -> int:
    """How many bins of equal mass so many examples are put into."""
    return max(1, min(BINS, examples // PER_BIN))


def calibration_error(probabilities: Matrix, outcomes: Matrix) -> tuple[float, float]:
    r"""(Debiased, plug-in) expected calibration error of (n,) ``probabilities`` of (n,) ``outcomes`` in {0, 1}.

    .. math:: ECE = \sum_b \frac{n_b}{n} |\bar p_b - \bar y_b|

    over ``bins_of(n)`` bins of equal mass (Naeini, Cooper and Hauskrecht 2015, AAAI; equal mass: Nguyen and O'Connor
    2015, EMNLP). The plug-in is too high, since chance alone sets the two means apart, the more so the fewer examples
    a bin has. With s_b^2 = \bar y_b (1 - \bar y_b) / n_b, the excess is estimated by that of normal draws around
    what was seen (Kumar, Liang and Ma 2019, "Verified Uncertainty Calibration", arXiv 1909.10155, section 5 and its
    library), in closed form: E|N(d, s^2)| - |d|. The difference is held at 0 or above.
    """
    parts = np.array_split(np.argsort(probabilities, kind="stable"), bins_of(len(probabilities)))
    sizes = np.array([len(part) for part in parts])
    rates = np.array([outcomes[part].mean() for part in parts])
    gaps = np.array([probabilities[part].mean() for part in parts]) - rates
    plug_in = float((sizes * np.abs(gaps)).sum() / sizes.sum())
    spread = np.sqrt(np.maximum(rates * (1 - rates), 1e-12) / sizes)
    folded = spread * np.sqrt(2 / np.pi) * np.exp(-(gaps**2) / (2 * spread**2)) + gaps * erf(gaps / (spread * 2**0.5))
    excess = float((sizes * (folded - np.abs(gaps))).sum() / sizes.sum())
    return max(0.0, plug_in - excess), plug_in


def calibration(probabilities: Matrix, outcomes: Matrix, rng: Generator) -> Estimate:
    """The debiased error, mean over seeds, with a 95% interval; both matrices are (seeds, examples).

    The interval is the value plus and minus 1.96 standard deviations of the plug-in over resampled examples and seeds,
    cut to [0, 1]: its percentiles would not do, since resampling adds to the excess. It captures the draw of examples
    and, given two or more seeds, that of seeds.
    """
    value = float(np.mean([calibration_error(p, y)[0] for p, y in zip(probabilities, outcomes, strict=True)]))
    found = [_plug_in(p, y) for p, y in zip(probabilities, outcomes, strict=True)]
    seeds, examples = probabilities.shape
    half = 1.96 * float(replicated(found, examples, rng).std())
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), seeds, examples, "normal")


def _plug_in(probabilities: Matrix, outcomes: Matrix) -> Statistic:
    bins = np.zeros((len(probabilities), bins_of(len(probabilities))))
    for column, part in enumerate(np.array_split(np.argsort(probabilities, kind="stable"), bins.shape[1])):
        bins[part, column] = probabilities[part] - outcomes[part]
    return lambda weights: np.abs(weights @ bins).sum(axis=1) / weights.sum(axis=1)


def fitted_scale(margins: Matrix, outcomes: Matrix) -> float:
    r"""The k that makes :math:`\sigma(k m)` of (n,) ``margins`` the likeliest to give (n,) ``outcomes`` in {0, 1}.

    One number, as in temperature scaling (Guo et al. 2017, arXiv 1706.04599), of which k is the inverse; a negative one
    says that the reward is the wrong way round. 0 where the margins are all 0.
    """
    spread = float(np.sqrt(np.mean(margins**2)))
    if spread == 0:
        return 0.0
    scaled, most = margins / spread, STEEPEST

    def slope(k: float) -> float:
        return float((scaled * (outcomes - expit(k * scaled))).sum())

    if slope(most) >= 0 or slope(-most) <= 0:
        return float(np.copysign(most, slope(0.0))) / spread
    return float(brentq(slope, -most, most)) / spread


def fitted_probabilities(margins: Matrix, outcomes: Matrix) -> Matrix:
    """(n,) :math:`\\sigma(k m)`, with k for each half of the examples (every other one) fitted on the other half."""
    found = np.empty_like(margins)
    for half in (0, 1):
        k = fitted_scale(margins[1 - half :: 2], outcomes[1 - half :: 2])
        found[half::2] = expit(k * margins[half::2])
    return found


def partial_correlation(first: Matrix, second: Matrix, given: Matrix | None, weights: Matrix) -> Matrix:
    r"""(replicates,) correlations of (n,) ``first`` and ``second``, with (n,) ``given`` held fixed linearly.

    .. math:: r_{xy \cdot z} = \frac{r_{xy} - r_{xz} r_{yz}}{\sqrt{(1 - r_{xz}^2)(1 - r_{yz}^2)}}

    (Fisher 1924, Metron 3:329). ``weights`` are (replicates, n); ones give the estimate. NaN where a variable is
    constant, or a function of ``given``.
    """
    columns = [first, second, *([] if given is None else [given])]
    columns = [column - column.mean() for column in columns]  # digits that the products would lose
    total = weights.sum(axis=1)
    means = [weights @ column / total for column in columns]

    def covariance(i: int, j: int) -> Matrix:
        found: Matrix = weights @ (columns[i] * columns[j]) / total - means[i] * means[j]
        return found

    def correlation(i: int, j: int) -> Matrix:
        variances = covariance(i, i) * covariance(j, j)
        with np.errstate(invalid="ignore", divide="ignore"):
            found: Matrix = np.where(variances > 1e-24, covariance(i, j) / np.sqrt(np.maximum(variances, 0)), np.nan)
        return found

    r = correlation(0, 1)
    if given is None:
        return r
    rx, ry = correlation(0, 2), correlation(1, 2)
    left = (1 - rx**2) * (1 - ry**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Matrix = np.where(left > 1e-12, (r - rx * ry) / np.sqrt(np.maximum(left, 0)), np.nan)
    return found


def estimate_of(statistics: Sequence[Statistic], units: int, rng: Generator) -> Estimate:
    """The mean over seeds of a statistic, one function of weights for each, with percentiles of ``replicated``."""
    ones = np.ones((1, units))
    value = float(np.mean([statistic(ones)[0] for statistic in statistics]))
    replicates = replicated(statistics, units, rng)
    replicates = replicates[~np.isnan(replicates)]
    low, high = np.quantile(replicates, [0.025, 0.975]) if len(replicates) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), len(statistics), units, "bootstrap")


def replicated(
    statistics: Sequence[Statistic], units: int, rng: Generator, replicates: int = REPLICATES // 4
) -> Matrix:
    """(replicates,) means over resampled seeds of a statistic of resampled units, as ``two_level_bootstrap`` does."""
    seeds = len(statistics)
    weights = rng.multinomial(units, np.full(units, 1 / units), size=replicates).astype(float)
    drawn = rng.multinomial(max(seeds - 1, 1), np.full(seeds, 1 / seeds), size=replicates)
    values = np.stack([statistic(weights) for statistic in statistics], axis=1)
    means: Matrix = (drawn * np.where(drawn > 0, values, 0.0)).sum(axis=1) / drawn.sum(axis=1)
    return means
