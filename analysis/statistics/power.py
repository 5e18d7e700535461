"""Planning: which difference a study finds, and how many prompts and seeds a claim needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special, stats

from analysis.statistics.crossed import LEAST_SEED_SPREAD, Matrix, critical_width, crossed

MOST = 10_000_000
"""A plan that would need more prompts or seeds than this counts as impossible."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


@dataclass(frozen=True)
class Components:
    """Variances of one outcome in the two-way random model: of seeds, of prompts, and of single answers."""

    seed: float
    prompt: float
    answer: float


def variance_components(differences: Matrix) -> Components:
    """Unbiased estimates from ``differences`` (seeds, prompts), with 0 in place of a negative one.

    From the expected mean squares (``crossed``). With one seed, that of seeds is NaN, as nothing can be known of
    it, and ``answer`` holds what prompts and answers cause together.
    """
    spread = crossed(differences)
    seeds, prompts = float(spread.seeds), float(spread.prompts)
    if prompts < 2:
        raise ValueError(f"variance components need outcomes of two or more prompts, got {int(prompts)}")
    if seeds == 1:
        return Components(float("nan"), 0.0, float(spread.prompt) * prompts)
    answer = float(spread.answer)
    return Components(
        max(0.0, float(spread.seed) - answer) * seeds,
        max(0.0, float(spread.prompt) - answer) * prompts,
        answer * seeds * prompts,
    )


def minimum_detectable_effect(
    differences: Matrix,
    *,
    seeds: int | None = None,
    prompts: int | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> float:
    """The smallest true mean difference that a study with so many ``seeds`` and ``prompts`` finds with that ``power``.

    ``differences`` (seeds, prompts) are paired differences of an earlier study; its own numbers are taken where none
    are given. "Finds" means that ``paired_difference`` has a p-value below (1 - confidence) / ``comparisons``, which is
    what Holm's first step asks of a family of that size. Captures prompts and, from two seeds on, training seeds; the
    variance components are taken as known, so a small earlier study makes the result itself uncertain. A study with
    one seed speaks of that seed only.

    The power is an integral over the chi-square of the seeds' mean square, or the noncentral t (one seed).
    """
    components = variance_components(differences)
    seeds, prompts = _sizes(differences, seeds, prompts)
    return _detectable(components, seeds, prompts, power, _alpha(power, confidence, comparisons))


def needed_prompts(
    differences: Matrix,
    effect: float,
    *,
    seeds: int | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> int | None:
    """The fewest prompts with which ``minimum_detectable_effect`` is at most ``effect``; None where no number suffices.

    None is common: with few seeds that matter, more prompts do not help.
    """
    components = variance_components(differences)
    seeds, _ = _sizes(differences, seeds, None)
    alpha = _alpha(power, confidence, comparisons)
    unit, effect = _planned(components, seeds), _positive(effect)
    return _fewest(lambda n: power_of(unit, effect, seeds, n, alpha) >= power, 2)


def needed_seeds(
    differences: Matrix,
    effect: float,
    *,
    prompts: int | None = None,
    power: float = 0.8,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> int | None:
    """The fewest seeds, two or more, with which ``minimum_detectable_effect`` is at most ``effect``; None where no
    number suffices, because the prompts differ too much for so few of them."""
    components = variance_components(differences)
    _, prompts = _sizes(differences, 2, prompts)
    alpha = _alpha(power, confidence, comparisons)
    unit, effect = _planned(components, 2), _positive(effect)
    return _fewest(lambda n: power_of(unit, effect, n, prompts, alpha) >= power, 2)


def minimum_detectable_rate_difference(
    rate: float, n: int, *, power: float = 0.8, confidence: float = 0.95, comparisons: int = 1
) -> float:
    """How far above ``rate`` a second rate must lie to be told from it, with ``n`` independent trials of each.

    For published counts, unpaired. The test is the pooled z-test of ``two_proportions`` (Fleiss, Levin & Paik 2003,
    *Statistical Methods for Rates and Proportions*, section 4.2, without continuity correction); infinite where not
    even a rate of 1 is told apart. By symmetry, rates below ``rate`` are those above 1 - ``rate``.
    """
    if not 0 <= rate < 1 or n < 1:
        raise ValueError(f"rate must lie in [0, 1) and n be positive, got rate={rate}, n={n}")
    z = -special.ndtri(_alpha(power, confidence, comparisons) / 2)

    def excess(other: float) -> float:
        pooled = (rate + other) / 2
        spread = np.sqrt((rate * (1 - rate) + other * (1 - other)) / n)
        return float(other - rate - z * np.sqrt(2 * pooled * (1 - pooled) / n) - special.ndtri(power) * spread)

    return float(optimize.brentq(excess, rate, 1.0) - rate) if excess(1.0) > 0 else float("inf")


def power_of(components: Components, effect: float, seeds: int, prompts: int, alpha: float = 0.05) -> float:
    """The chance that a study of that size has a p-value below ``alpha`` where the true difference is ``effect``."""
    fixed, noise = components.prompt / prompts, components.answer / (seeds * prompts)
    if seeds == 1:
        spread = np.sqrt(fixed + noise)
        if spread == 0:
            return 1.0 if effect else 0.0
        t = stats.t.ppf(1 - alpha / 2, prompts - 1)
        shift = abs(effect) / spread
        return float(
            stats.nct.sf(t, prompts - 1, shift) + np.nan_to_num(stats.nct.cdf(-t, prompts - 1, shift))
        )  # NaN where it vanishes
    true = components.seed / seeds + noise
    if true + fixed == 0:
        return 1.0 if effect else 0.0
    width, weights = _widths(components, seeds, prompts, alpha)
    spread = np.sqrt(true + fixed)
    beyond = special.ndtr((abs(effect) - width) / spread) + special.ndtr((-abs(effect) - width) / spread)
    return float(beyond @ weights)


@lru_cache(maxsize=256)  # a root is sought over effects, of which these do not depend
def _widths(components: Components, seeds: int, prompts: int, alpha: float) -> tuple[Matrix, Matrix]:
    """How far from 0 a mean must lie, over the chi-square of the seeds' mean square, and the weights to integrate."""
    fixed, noise = components.prompt / prompts, components.answer / (seeds * prompts)
    true = components.seed / seeds + noise
    # (nodes + 1)^3 / 8 is dense near 0, where two seeds agree by chance and the interval is short.
    roots = (_NODES + 1) / 2
    shares, weights = roots**3, 1.5 * roots**2 * _WEIGHTS
    seen = true * special.chdtri(seeds - 1, 1 - shares) / (seeds - 1)
    part = np.maximum(seen, LEAST_SEED_SPREAD * noise)
    # A study estimates the prompts' part with an error, never below 0: on average it sees more than there may be.
    error = np.sqrt(2 / (prompts - 1) * ((fixed + noise) ** 2 + noise**2 / (seeds - 1)))
    seen_fixed = fixed * special.ndtr(fixed / error) + error * stats.norm.pdf(fixed / error) if error else fixed
    width = critical_width(part, np.asarray(seen_fixed), np.asarray(seeds - 1), np.asarray(prompts - 1), alpha)
    return width, weights


def _planned(components: Components, seeds: int) -> Components:
    """What moves a study with so many seeds: one with a single seed speaks of that seed only."""
    if seeds == 1:
        return Components(0.0, 0.0, components.prompt + components.answer)
    if np.isnan(components.seed):
        raise ValueError(
            f"the variance of seeds cannot be known from one seed, so nothing can be planned for seeds={seeds}; pass "
            "differences of two or more seeds, or seeds=1"
        )
    return components


def _detectable(components: Components, seeds: int, prompts: int, power: float, alpha: float) -> float:
    unit = _planned(components, seeds)
    scale = np.sqrt(unit.seed / seeds + unit.prompt / prompts + unit.answer / (seeds * prompts))
    if scale == 0:
        return 0.0
    high = scale
    while power_of(unit, high, seeds, prompts, alpha) < power:
        high *= 2
    return float(
        optimize.brentq(lambda effect: power_of(unit, effect, seeds, prompts, alpha) - power, 0.0, high, rtol=1e-6)
    )


def _fewest(enough: Callable[[int], bool], least: int) -> int | None:
    """The smallest n from ``least`` to MOST that is enough."""
    high = least
    while not enough(high):
        high *= 4
        if high > MOST:
            return None
    low = least - 1 if high == least else high // 4
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _sizes(differences: Matrix, seeds: int | None, prompts: int | None) -> tuple[int, int]:
    observed = ~np.isnan(differences)
    seeds = int(observed.any(axis=1).sum()) if seeds is None else seeds
    prompts = int(observed.any(axis=0).sum()) if prompts is None else prompts
    if seeds < 1 or prompts < 2:
        raise ValueError(f"a study needs seeds >= 1 and prompts >= 2, got seeds={seeds}, prompts={prompts}")
    return seeds, prompts


def _alpha(power: float, confidence: float, comparisons: int) -> float:
    alpha = 1 - confidence
    if not 0 < confidence < 1 or not alpha < power < 1 or comparisons < 1:
        raise ValueError(
            "power must lie between 1 - confidence and 1, confidence between 0 and 1, comparisons be at least 1; got "
            f"power={power}, confidence={confidence}, comparisons={comparisons}"
        )
    return alpha / comparisons


def _positive(effect: float) -> float:
    if not effect > 0:
        raise ValueError(f"effect must be above 0, got {effect}")
    return effect
