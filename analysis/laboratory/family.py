"""The contrasts of one question, in families that are adjusted each by itself, and the sentences that they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from analysis import statistics, text
from analysis.laboratory.arms import Arm, Arms, Contrast, Measure

ALPHA = 0.05
Words = Callable[[Contrast, bool], str]
"""The sentence of a contrast, and whether it stands."""


@dataclass(frozen=True)
class _Asked:
    """A contrast before it is computed, which needs to know how many others there are."""

    label: str
    measure: Measure
    first: list[Arm]
    second: list[Arm]
    words: Words


class Family:
    """Contrasts that answer one thing, each adjusted for all of them (Holm), and how to speak of them.

    All are asked for before the first is read.
    """

    def __init__(self, arms: Arms, title: str) -> None:
        """Of the arms of one experiment; ``title`` says what is asked."""
        self.title = title
        self._arms = arms
        self._asked: list[_Asked] = []

    def compare(self, measure: Measure, first: Arm, second: Arm, subject: str, other: str) -> None:
        """``first`` minus ``second``, called ``subject`` and ``other`` in the sentence."""

        def words(one: Contrast, stands: bool) -> str:
            if stands:
                higher = "higher" if one.value > 0 else "lower"
                return f"{subject} has {higher} {measure.noun} than {other}: {_evidence(one)}."
            return f"{subject} and {other} cannot be told apart in {measure.noun}: {_evidence(one)}. {_detectable(one)}"

        self._asked.append(_Asked(f"{subject} − {other}", measure, [first], [second], words))

    def interact(
        self,
        measure: Measure,
        first: tuple[Arm, Arm],
        second: tuple[Arm, Arm],
        what: str,
        grows: str = "grows",
        shrinks: str = "shrinks",
    ) -> None:
        """(a - b) - (c - d) of the pairs ``first`` = (a, b) and ``second`` = (c, d): whether a difference changes.

        ``what`` names the difference; ``grows`` and ``shrinks`` complete the sentence for either sign.
        """

        def words(one: Contrast, stands: bool) -> str:
            if stands:
                return f"{what} {grows if one.value > 0 else shrinks}: by {_evidence(one)} in {measure.noun}."
            return (
                f"{what}: whether it {grows} or {shrinks} cannot be told from {measure.noun}: {_evidence(one)}. "
                f"{_detectable(one)}"
            )

        self._asked.append(_Asked(what, measure, [first[0], second[1]], [first[1], second[0]], words))

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """All of them, with the p-values of Holm's method."""
        size = len(self._asked)
        found = [
            self._arms.contrast(one.label, one.measure, one.first, one.second, comparisons=size) for one in self._asked
        ]
        adjusted = statistics.holm([one.p_value for one in found])
        return [replace(one, p_holm=float(p)) for one, p in zip(found, adjusted, strict=True)]

    @property
    def sentences(self) -> list[str]:
        """One per contrast, in the order in which they came."""
        return [asked.words(one, one.p_holm < ALPHA) for one, asked in zip(self.contrasts, self._asked, strict=True)]

    @property
    def standing(self) -> int:
        """How many differ from 0."""
        return sum(one.p_holm < ALPHA for one in self.contrasts)

    @property
    def table(self) -> pd.DataFrame:
        """All contrasts for display: every cell is text."""
        rows = [
            {
                "contrast": one.label,
                "measure": one.measure.noun,
                "difference": one.measure.shown(one.value, sign=True),
                "95% interval": one.measure.interval(one.low, one.high),
                "p (Holm)": text.p_value(one.p_holm),
                "detectable": one.measure.shown(one.detectable),
                "seeds × prompts": f"{one.seeds} × {one.prompts}",
                "seeds that find one of this size": "none" if one.needed is None else f"{one.needed:,}",
            }
            for one in self.contrasts
        ]
        return pd.DataFrame(rows)


def _evidence(one: Contrast) -> str:
    p = text.p_value(one.p_holm)
    interval = one.measure.interval(one.low, one.high)
    said = p if p.startswith("<") else f"= {p}"
    return f"{one.measure.shown(one.value, sign=True)} (95% interval {interval}, p {said})"


def _detectable(one: Contrast) -> str:
    """What 4 of 5 studies find: which difference with these seeds, and with how many seeds a difference like this."""
    found = f"A true difference of {one.measure.shown(one.detectable)} would be found by 4 of 5 such studies"
    if one.needed is None:
        return f"{found}, one of the size seen with no number of seeds."
    return f"{found}, one of the size seen by 4 of 5 with {one.needed:,} seeds."
