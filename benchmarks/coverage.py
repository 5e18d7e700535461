"""How often nominal 95% intervals hold the truth, over 2,000 simulated studies each: the table of docs/statistics.md.

python benchmarks/coverage.py [--studies 2000] [--only crossed]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy import special, stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import statistics

STUDIES = 2000
Interval = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Study:
    """One row: ``run(rng, studies)`` returns the percentage of studies whose interval covers, or whose test finds.

    ``known`` is the range that it lies in where that is not 94 to 96: a limit that the docstrings state.
    """

    kind: str
    regime: str
    run: Callable[[Generator, int], float]
    known: tuple[float, float] = (94.0, 96.0)
    tested: bool = True


def covered(interval: Interval, truth: float | np.ndarray) -> float:
    """Percentage of intervals that hold the truth."""
    return 100 * float(np.mean((interval[0] <= truth) & (truth <= interval[1])))


# Outcomes: seeds and prompts shift the log-odds or the score of every answer.


def effects(rng: Generator, n: int, seeds: int, prompts: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Seeds' and prompts' effects; seeds add ``share`` times the variance to a mean that prompts do."""
    deviation = np.sqrt(share * seeds / prompts)
    return deviation * rng.normal(size=(n, seeds, 1)), rng.normal(size=(n, 1, prompts))


def outcomes(kind: str, rng: Generator, n: int, seeds: int, prompts: int, share: float) -> np.ndarray:
    """(n, seeds, prompts) outcomes of a kind."""
    seed, prompt = effects(rng, n, seeds, prompts, share)
    shape = (n, seeds, prompts)
    if kind == "normal":
        return seed + prompt + rng.normal(size=shape)
    if kind == "alike prompts":
        return seed + rng.normal(size=shape)
    if kind == "skewed":
        return seed + rng.exponential(size=(n, 1, prompts)) + rng.exponential(size=shape) - 2
    if kind == "missing answers":
        return np.where(rng.random(shape) < 0.2, np.nan, seed + prompt + rng.normal(size=shape))
    if kind == "win rate difference":
        first = 0.3 + seed + 0.7 * prompt + rng.logistic(size=shape) > 0
        return first.astype(float) - (0.7 * prompt + rng.logistic(size=shape) > 0)
    odds = 0.8 + seed + prompt + rng.logistic(size=shape)
    if kind == "wins":
        return (odds > 0).astype(float)
    if kind == "wins and ties":
        return np.where(np.abs(odds) < 1, 0.5, odds > 0)
    return special.expit(odds)


BOUNDED = ("wins", "wins and ties", "scores in [0, 1]")
TESTED = ("normal", "win rate difference", "wins and ties")
MEANS = ("normal", "alike prompts", "skewed", "missing answers", "win rate difference", *BOUNDED)


@cache
def truth(kind: str, deviation: float) -> float:
    """The true mean, from millions of single answers to prompts of their own under seeds of their own."""
    if kind not in (*BOUNDED, "win rate difference"):
        return 0.0
    rng = np.random.default_rng(9)
    return float(outcomes(kind, rng, 1_000_000, 1, 1, deviation**2).mean())


def mean_study(kind: str, seeds: int, prompts: int, share: float) -> Callable[[Generator, int], float]:
    """A mean's interval."""

    def run(rng: Generator, studies: int) -> float:
        drawn = outcomes(kind, rng, studies, seeds, prompts, share)
        true = truth(kind, float(np.sqrt(share * seeds / prompts)))
        if kind in BOUNDED:
            return covered(statistics.bounded_interval(drawn), true)
        return covered(statistics.crossed(drawn).interval(), true)

    return run


def means() -> Iterator[Study]:
    """Means and paired differences over seeds and prompts."""
    for kind in MEANS:
        for prompts in (64, 256):
            for seeds in (1, 2, 3, 5, 10):
                for share, name in ((0.0, "none"), (1.0, "as prompts"), (20.0, "dominant")):
                    if seeds == 1 and share:
                        continue
                    known = (94.0, 97.0) if seeds == 2 else (94.0, 96.0)
                    regime = f"{prompts} prompts × {seeds} seeds, effect of seeds: {name}"
                    tested = prompts == 64 and seeds < 10 and kind in TESTED
                    yield Study(kind, regime, mean_study(kind, seeds, prompts, share), known, tested)


SHARES = special.expit(np.linspace(-6, 6, 61))
"""Of seeds in the variance of a mean."""


def width(seeds: int, extreme: Callable[[np.ndarray], float]) -> Callable[[Generator, int], float]:
    """Extreme coverage over all shares of the seeds, for many prompts: an integral, which needs no study."""

    def run(rng: Generator, studies: int) -> float:
        del rng, studies
        nodes, weights = np.polynomial.legendre.leggauss(200)
        tail = ((nodes + 1) / 2) ** 4 / 2  # dense near 0, where few seeds agree by chance
        weights = np.tile((nodes + 1) ** 3 / 8 * weights, 2)
        chi_squares = stats.chi2(seeds - 1)
        squares = np.concatenate([chi_squares.ppf(tail), chi_squares.isf(tail)]) / (seeds - 1)
        share = SHARES[:, None]
        widths = statistics.critical_width(share * squares, 1 - share, np.array(seeds - 1), np.array(1e9), 0.05)
        return 100 * extreme((1 - 2 * special.ndtr(-widths)) @ weights)

    return run


def widths() -> Iterator[Study]:
    """What ``critical_width`` comes to by itself."""
    for seeds in (2, 3, 5, 10):
        known = (94.0, 96.5) if seeds == 2 else (94.0, 96.0)
        for name, extreme in (("least", np.min), ("most", np.max)):
            yield Study("width", f"{seeds} seeds of any share, many prompts: {name}", width(seeds, extreme), known)


def first_step(kind: str, seeds: int, share: float) -> Callable[[Generator, int], float]:
    """How often equal methods differ with p < 0.05 / 12, Holm's first step in a family of 12; 0.42 is nominal."""

    def run(rng: Generator, studies: int) -> float:
        drawn = outcomes(kind, rng, 5 * studies, seeds, 64, share)
        return 100 - covered(statistics.crossed(drawn).interval(1 - 0.05 / 12), 0.0)

    return run


def first_steps() -> Iterator[Study]:
    """Small p-values."""
    for kind in ("normal", "alike prompts"):
        for seeds in (2, 3, 5):
            for share, name in ((0.0, "none"), (1.0, "as prompts"), (20.0, "dominant")):
                regime = f"{kind}, 64 prompts × {seeds} seeds, effect of seeds: {name}"
                yield Study("p < 0.0042", regime, first_step(kind, seeds, share), (0.0, 2.5), False)


# Counts


def wilson(rng: Generator, studies: int) -> float:
    """One rate per study."""
    rates = rng.uniform(0.02, 0.98, studies)
    ends = np.array([statistics.wilson(wins, 100) for wins in rng.binomial(100, rates)])
    return covered((ends[:, 0], ends[:, 1]), rates)


def two_proportions(rng: Generator, studies: int) -> float:
    """Two rates per study."""
    first, second = rng.uniform(0.1, 0.9, (2, studies))
    wins = zip(rng.binomial(128, first), rng.binomial(128, second), strict=True)
    found = [statistics.two_proportions(a, 128, b, 128) for a, b in wins]
    return covered((np.array([one.low for one in found]), np.array([one.high for one in found])), first - second)


# Runs


def runs_of(rng: Generator, studies: int, seeds: int, prompts: int = 64) -> np.ndarray:
    """(studies, seeds, prompts) scores."""
    seed, prompt = effects(rng, studies, seeds, prompts, 1.0 if seeds > 1 else 0.0)
    return seed + prompt + rng.normal(size=(studies, seeds, prompts))


def total_variance(seeds: int, prompts: int = 64) -> float:
    """Of one such score."""
    return 2 + (seeds / prompts if seeds > 1 else 0.0)


def interquartile_mean(seeds: int) -> Callable[[Generator, int], float]:
    """Of skewed scores."""

    def run(rng: Generator, studies: int) -> float:
        drawn = np.exp(0.5 * runs_of(rng, studies, seeds))  # skewed
        quantiles = stats.norm.ppf(0.25 + (np.arange(100_000) + 0.5) / 200_000)
        true = np.exp(0.5 * np.sqrt(total_variance(seeds)) * quantiles).mean()
        return covered(statistics.interquartile_mean_interval(drawn), true)

    return run


def profile(seeds: int) -> Callable[[Generator, int], float]:
    """At one threshold."""

    def run(rng: Generator, studies: int) -> float:
        drawn = runs_of(rng, studies, seeds) > 1.0
        true = stats.norm.sf(1.0 / np.sqrt(total_variance(seeds)))
        return covered(statistics.bounded_interval(drawn.astype(float)), true)

    return run


def improvement(seeds: int) -> Callable[[Generator, int], float]:
    """Prompts are shared, seeds are not."""

    def run(rng: Generator, studies: int) -> float:
        deviation = np.sqrt(seeds / 64) if seeds > 1 else 0.0
        shared = rng.normal(size=(studies, 1, 64))
        first, second = (
            gap + shared + deviation * rng.normal(size=(studies, seeds, 1)) + rng.normal(size=(studies, seeds, 64))
            for gap in (0.5, 0.0)
        )
        true = stats.norm.cdf(0.5 / np.sqrt(2 * (1 + deviation**2)))
        return covered(statistics.improvement_interval(first, second), true)

    return run


# Models


def bradley_terry(seeds: int, prompts: int = 64) -> Callable[[Generator, int], float]:
    """Utilities with Gumbel noise, so that the model holds; some of the noise is the prompt's or the seed's."""

    def run(rng: Generator, studies: int) -> float:
        true = np.array([0.0, 0.4, 0.9])
        hits = 0.0
        for _ in range(studies):
            own = rng.gumbel(size=(3, seeds, prompts))
            source = rng.random((3, seeds, prompts))
            noise = np.where(source < 0.5, rng.gumbel(size=(3, 1, prompts)), own)
            if seeds > 1:
                noise = np.where(source > 0.95, rng.gumbel(size=(3, seeds, 1)), noise)
            utility = true[:, None, None] + noise
            found = statistics.bradley_terry((utility[:, None] > utility[None]).astype(float))
            hits += float(np.mean((found.low <= true)[1:] & (true <= found.high)[1:]))
        return 100 * hits / studies

    return run


def length_controlled(seeds: int, prompts: int = 128) -> Callable[[Generator, int], float]:
    """Where answers are longer than the reference's, and length is rewarded."""

    def run(rng: Generator, studies: int) -> float:
        hits = 0
        for _ in range(studies):
            theirs = rng.poisson(60, size=(1, prompts)) * np.ones((seeds, 1))
            ours = rng.poisson(75, size=(seeds, prompts)).astype(float)
            chance = special.expit(-0.4 + 1.2 * np.tanh((ours - theirs) / 12.0))
            wins = rng.random((seeds, prompts)) < chance
            found = statistics.length_controlled_win_rate(wins, ours, theirs)
            hits += found.low <= special.expit(-0.4) <= found.high
        return 100 * hits / studies

    return run


SETTINGS: dict[str, Callable[[Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(-(3**0.5), 3**0.5, shape),
    "mostly good": lambda rng, shape: 1 - rng.exponential(size=shape),
    "mostly bad": lambda rng, shape: rng.exponential(size=shape) - 1,
}
"""True scores of settings that are drawn, with mean 0 and variance 1."""


def best_of_trials(
    n: int, spread: float, kind: str = "normal", lead: float = 0.0, shared: float = 0.5, trials: int = 8
) -> Callable[[Generator, int], float]:
    """Expected best true score of ``n`` trials. Settings differ by ``spread`` standard errors of a score; the mean of
    the others is ``lead`` times that above the default's (times one error if it is less). Prompts have effects on all
    trials alike, with ``shared`` times the variance of single answers."""

    def run(rng: Generator, studies: int) -> float:
        def others(count: int, drawn: int) -> np.ndarray:
            return (lead * max(spread, 1.0) + spread * SETTINGS[kind](rng, (count, drawn))) / np.sqrt(128)

        true = np.maximum(others(200_000, n - 1).max(axis=1, initial=-np.inf), 0.0).mean() if n > 1 else 0.0
        hits = 0
        for _ in range(studies):
            scores = np.concatenate([np.zeros((1, 1)), others(trials - 1, 1)])
            prompts = np.sqrt(shared) * rng.normal(size=(1, 128))
            drawn = scores + prompts + rng.normal(size=(trials, 128))
            found = statistics.best_of_trials(drawn, rng, replicates=1000)
            hits += found.low[n - 1] <= true <= found.high[n - 1]
        return 100 * hits / studies

    return run


def best_of_wins(n: int, spread: float) -> Callable[[Generator, int], float]:
    """Expected best true win rate of ``n`` of 8 trials, whose log-odds differ by ``spread``; so do those of prompts."""
    prompts = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)

    def run(rng: Generator, studies: int) -> float:
        odds = np.linspace(-8, 8, 400)
        rates = special.expit(odds[:, None] + prompts).mean(axis=1)
        best = np.maximum(spread * rng.normal(size=(200_000, n - 1)).max(axis=1, initial=-np.inf), 0.0)
        true = np.interp(best, odds, rates).mean()
        hits = 0
        for _ in range(studies):
            settings = spread * rng.normal(size=(8, 1)) * (np.arange(8) > 0)[:, None]
            wins = settings + rng.normal(size=128) + rng.logistic(size=(8, 128)) > 0
            found = statistics.best_of_trials(wins.astype(float), rng, bounded=True, replicates=1000)
            hits += found.low[n - 1] <= true <= found.high[n - 1]
        return 100 * hits / studies

    return run


# Power: the percentage of studies that find the minimum detectable effect, which should be 80


def power(seeds: int, prompts: int, seed: float, prompt: float) -> Callable[[Generator, int], float]:
    """Planned from one large earlier study, whose components are all but exact."""

    def draw(rng: Generator, shape: tuple[int, int, int]) -> np.ndarray:
        n, s, p = shape
        return seed * rng.normal(size=(n, s, 1)) + prompt * rng.normal(size=(n, 1, p)) + rng.normal(size=shape)

    def run(rng: Generator, studies: int) -> float:
        pilot = draw(rng, (1, 6000, 500))[0]
        effect = statistics.minimum_detectable_effect(pilot, seeds=seeds, prompts=prompts)
        low, high = statistics.crossed(draw(rng, (studies, seeds, prompts)) + effect).interval()
        return 100 * float(np.mean((low > 0) | (high < 0)))

    return run


def rate_power(rng: Generator, studies: int) -> float:
    """Unpaired counts."""
    gap = statistics.minimum_detectable_rate_difference(0.4, 256)
    wins = zip(rng.binomial(256, 0.4 + gap, studies), rng.binomial(256, 0.4, studies), strict=True)
    return 100 * float(np.mean([statistics.two_proportions(a, 256, b, 256).p_value < 0.05 for a, b in wins]))


def best_of_trials_studies() -> Iterator[Study]:
    """Where settings are normal, by how much they differ; then what breaks the assumptions."""
    kind = "best of trials"
    for spread in (0.0, 0.5, 1.0, 4.0, 16.0):
        for n in (1, 2, 4, 8):
            regime = f"{n} of 8, settings differ by {spread:g} standard errors"
            yield Study(kind, regime, best_of_trials(n, spread), (94.0, 97.5), spread in (0.0, 4.0) and n != 2)
    for lead, name in ((1.0, "better"), (-1.0, "worse")):
        for spread in (0.0, 1.0, 4.0, 16.0):
            regime = f"8 of 8, settings differ by {spread:g}, by as much {name} than the default"
            yield Study(kind, regime, best_of_trials(8, spread, lead=lead), (94.0, 97.5), False)
    for other in ("uniform", "mostly good", "mostly bad"):
        for spread in (1.0, 4.0, 16.0):
            for n in (2, 8):
                regime = f"{n} of 8, settings {other}, differ by {spread:g}"
                yield Study(kind, regime, best_of_trials(n, spread, other), (0.0, 100.0), False)
    for spread in (0.0, 1.0, 4.0):
        regime = f"8 of 8, settings differ by {spread:g}, prompts equally hard"
        yield Study(kind, regime, best_of_trials(8, spread, shared=0.0), (93.0, 98.5), False)
    for spread in (0.0, 0.5, 1.0):
        for n in (2, 8):
            regime = f"{n} of 8, wins whose log-odds differ by {spread:g}"
            yield Study(kind, regime, best_of_wins(n, spread), (94.0, 97.5), False)
    for trials in (3, 16):
        for spread in (0.0, 4.0):
            regime = f"{trials} of {trials}, settings differ by {spread:g}"
            yield Study(kind, regime, best_of_trials(trials, spread, trials=trials), (93.0, 98.5), False)


POWER = (78.0, 82.0)
OTHERS = [
    Study("Wilson", "100 prompts, averaged over rates from 2 to 98%", wilson),
    Study("two proportions (Newcombe)", "128 prompts each, averaged over rates", two_proportions),
    *(Study("interquartile mean", f"64 prompts × {s} seeds", interquartile_mean(s)) for s in (1, 3, 5)),
    *(Study("performance profile", f"64 prompts × {s} seeds", profile(s)) for s in (1, 3, 5)),
    *(Study("probability of improvement", f"64 prompts × {s} seeds", improvement(s)) for s in (1, 3, 5)),
    *(Study("Bradley-Terry", f"3 methods, 64 prompts × {s} seeds", bradley_terry(s), (94.0, 97.0)) for s in (1, 3)),
    Study("Bradley-Terry", "3 methods, 256 prompts × 1 seeds", bradley_terry(1, 256), tested=False),
    *(Study("length-controlled", f"128 prompts × {s} seeds", length_controlled(s), (94.0, 97.0)) for s in (1, 3)),
    Study("length-controlled", "512 prompts × 1 seeds", length_controlled(1, 512), tested=False),
    *best_of_trials_studies(),
    Study("power of 80%", "128 prompts × 1 seed", power(1, 128, 0.0, 0.5), POWER),
    Study("power of 80%", "128 prompts × 2 seeds", power(2, 128, 0.15, 0.5), POWER),
    Study("power of 80%", "128 prompts × 3 seeds", power(3, 128, 0.15, 0.5), POWER),
    Study("power of 80%", "256 prompts × 5 seeds", power(5, 256, 0.1, 0.3), POWER),
    Study("power of 80%", "64 prompts × 3 seeds, neither matters", power(3, 64, 0.0, 0.0), (75.0, 82.0)),
    Study("power of 80%", "two proportions, 256 prompts each", rate_power, POWER),
]


def all_studies() -> list[Study]:
    """Every row of the table."""
    return [*means(), *widths(), *first_steps(), *OTHERS]


def measure(study: Study, studies: int = STUDIES) -> float:
    """The row's percentage, from a stream named after the row."""
    return study.run(np.random.default_rng([*f"{study.kind}{study.regime}".encode()]), studies)


def main() -> None:
    """Prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--only", default="", help="rows whose kind contains this")
    arguments = parser.parse_args()
    print("| what | regime | % |\n| --- | --- | --- |")
    for study in all_studies():
        if arguments.only in study.kind:
            print(f"| {study.kind} | {study.regime} | {measure(study, arguments.studies):.1f} |", flush=True)


if __name__ == "__main__":
    main()
