"""Arms of an experiment, told apart by fields of their configuration, and paired contrasts between them.

The report of a sweep compares losses within a setting. An experiment also asks whether a difference between losses
depends on who gave the feedback, so here an arm is chosen by any field of its configuration, and a contrast may be a
difference of differences, as long as all arms have answered the same prompts from the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics, text
from analysis.estimates import span
from kto_bench.results import RecordError, Sweep, flatten

PER_CENT = 100.0
"""The scale of measures that are shares."""
Arm = Mapping[str, Any]
"""Values of factors that choose the runs of an arm; what is not named is pooled over."""


@dataclass(frozen=True)
class Measure:
    """A column of the outcomes, how it is called in a sentence, and how it is printed."""

    column: str
    noun: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    table: str = "outcomes"
    """Where the column is (``Arms.tables``)."""

    def shown(self, value: float, sign: bool = False) -> str:
        """The number with its unit."""
        return f"{text.number(value, self.digits, self.scale, sign)}{self.unit}"

    def interval(self, low: float, high: float) -> str:
        """Both ends, the unit once."""
        ends = (text.number(end, self.digits, self.scale, sign=True) for end in (low, high))
        return f"{' to '.join(ends)}{self.unit}"


UTILITY = Measure("utility", "gold utility")
PERCEIVED = Measure("perceived", "perceived utility")
TOKENS = Measure("tokens", "mean length in tokens", digits=1)
WIN_RATE = Measure("preference", "win rate", " points", PER_CENT, digits=1)


@dataclass(frozen=True)
class Contrast(statistics.Difference):
    """A paired difference between arms, or a difference of such differences, and how surely one is found."""

    label: str
    measure: Measure
    detectable: float
    """The smallest true difference that so many seeds and prompts find in 4 of 5 studies."""
    needed: int | None
    """How many seeds, with these prompts, find a true difference of the size seen in 4 of 5 studies; None where no
    number does, or one seed says nothing of others."""
    p_holm: float = float("nan")
    """Adjusted for its family; NaN until it has one."""

    @property
    def shown(self) -> str:
        """The difference with its interval and adjusted p-value."""
        p = text.p_value(self.p_holm)
        said = p if p.startswith("<") else f"= {p}"
        interval = self.measure.interval(self.low, self.high)
        return f"{self.measure.shown(self.value, sign=True)} (95% interval {interval}, p {said})"


class Arms:
    """The finished runs of a sweep with the factors of an experiment.

    ``factors`` maps names to dotted keys of the configuration. ``tables`` holds the outcomes (``Sweep.outcomes``), and
    whatever a question adds, with one more column per factor.
    """

    def __init__(self, sweep: Sweep, factors: Mapping[str, str]) -> None:
        """Raises RecordError where the sweep has no finished run, or a factor is in no configuration."""
        self.sweep, self.factors = sweep, list(factors)
        values = []
        for record in sweep.records:
            config = flatten(record.json("config.json"))
            values.append({"run": record.run, **{name: config.get(key) for name, key in factors.items()}})
        self._chosen = pd.DataFrame(values, columns=["run", *factors])
        missing = [key for name, key in factors.items() if self._chosen[name].isna().all()]
        if sweep.outcomes.empty or missing:
            what = f"no configuration has {', '.join(missing)}" if missing else "no run is finished"
            raise RecordError(f"sweep {sweep.name!r}: {what}; launch it again")
        self.tables = {"outcomes": self.with_factors(sweep.outcomes)}

    def with_factors(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of the sweep with the factors in place of columns of the same names."""
        own = [name for name in self.factors if name in table]
        return table.drop(columns=own).merge(self._chosen, on="run")

    def derive(self, factor: str, of: Callable[[pd.Series], Any]) -> None:
        """One more factor, computed from the others."""
        self._chosen[factor] = [of(row) for _, row in self._chosen.iterrows()]
        self.factors.append(factor)
        self.tables = {
            name: table.merge(self._chosen[["run", factor]], on="run") for name, table in self.tables.items()
        }

    def values(self, factor: str) -> list[Any]:
        """What a factor takes, sorted."""
        found: list[Any] = self.tables["outcomes"][factor].dropna().unique().tolist()
        return sorted(found)

    def select(self, arm: Arm, table: str = "outcomes") -> pd.DataFrame:
        """The rows of an arm. Raises RecordError, naming what there is, where it has none."""
        rows = self.tables[table]
        for factor, value in arm.items():
            found = rows[rows[factor] == value]
            if found.empty:
                there = ", ".join(map(str, sorted(rows[factor].dropna().unique(), key=str)))
                raise RecordError(
                    f"sweep {self.sweep.name!r}: no finished run has {factor}={value!r} of {arm}; there are {there}. "
                    "Launch it again to finish it"
                )
            rows = found
        return rows

    def matrix(self, measure: Measure, arm: Arm) -> pd.DataFrame:
        """(seeds, prompts): the mean of a measure over the runs of an arm."""
        rows = self.select(arm, measure.table)
        return rows.pivot_table(index="seed", columns="prompt_id", values=measure.column, aggfunc="mean").astype(float)

    def estimate(self, measure: Measure, arm: Arm) -> statistics.Estimate:
        """The mean of an arm, with an interval over seeds and prompts."""
        return statistics.estimate(self.matrix(measure, arm).to_numpy(), bounded=measure.scale == PER_CENT)

    def contrast(
        self, label: str, measure: Measure, first: Sequence[Arm], second: Sequence[Arm], comparisons: int = 1
    ) -> Contrast:
        """The sum of the arms ``first`` minus the sum of the arms ``second``, on the seeds and prompts that all have.

        [a, d] against [b, c] is the difference of differences (a - b) - (c - d). ``comparisons`` is the size of the
        family that it is planned for: to be found, its p-value must pass the first step of Holm's method.
        """
        plus, minus = ([self.matrix(measure, arm) for arm in side] for side in (first, second))
        seeds, prompts = _common([*plus, *minus])
        if not len(seeds) or not len(prompts):
            raise RecordError(f"sweep {self.sweep.name!r}: the arms of {label!r} have no seed or prompt in common")
        left, right = (np.sum([frame.loc[seeds, prompts] for frame in side], axis=0) for side in (plus, minus))
        found = statistics.paired_difference(left, right)
        least = statistics.minimum_detectable_effect(left - right, comparisons=comparisons)
        plannable = found.seeds > 1 and found.value != 0
        needed = statistics.needed_seeds(left - right, abs(found.value), comparisons=comparisons) if plannable else None
        return Contrast(**vars(found), label=label, measure=measure, detectable=least, needed=needed)

    @property
    def sample(self) -> str:
        """How many seeds and prompts an arm has, for a caption."""
        arms = self.tables["outcomes"].groupby(self.factors, dropna=False)
        counts = arms[["seed", "prompt_id"]].nunique()
        return f"n = {span(counts['prompt_id'], 'prompts')} × {span(counts['seed'], 'seeds')}"


def _common(frames: Sequence[pd.DataFrame]) -> tuple[pd.Index, pd.Index]:
    seeds, prompts = frames[0].index, frames[0].columns
    for frame in frames[1:]:
        seeds, prompts = seeds.intersection(frame.index), prompts.intersection(frame.columns)
    return seeds, prompts
