"""The contrasts of one question, in families that are adjusted each by itself, and the sentences that they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from analysis import statistics, text
from analysis.laboratory.arms import Arm, Arms, Contrast, Measure
from analysis.laboratory.prediction import Expected, Verdict, verdict

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
    expected: Expected | None


@dataclass(frozen=True)
class Finding:
    """A contrast, whether it stands, what was predicted of it (if anything was), and the sentence that says so."""

    contrast: Contrast
    stands: bool
    expected: Expected | None
    sentence: str

    @property
    def verdict(self) -> Verdict | None:
        """None where nothing was predicted."""
        return None if self.expected is None else verdict(self.expected, self.contrast.value, self.stands)


class Family:
    """Contrasts that answer one thing, each adjusted for all of them (Holm), and how to speak of them.

    All are asked for before the first is read.
    """

    def __init__(self, arms: Arms, title: str) -> None:
        """Of the arms of one experiment; ``title`` says what is asked."""
        self.title = title
        self._arms = arms
        self._asked: list[_Asked] = []

    def compare(
        self, measure: Measure, first: Arm, second: Arm, subject: str, other: str, expected: Expected | None = None
    ) -> None:
        """``first`` minus ``second``, called ``subject`` and ``other`` in the sentence."""

        def words(one: Contrast, stands: bool) -> str:
            if stands:
                higher = "higher" if one.value > 0 else "lower"
                return f"{subject} has {higher} {measure.noun} than {other}: {one.shown}."
            return f"{subject} and {other} cannot be told apart in {measure.noun}: {one.shown}. {_detectable(one)}"

        self._asked.append(_Asked(f"{subject} − {other}", measure, [first], [second], words, expected))

    def interact(
        self,
        measure: Measure,
        first: tuple[Arm, Arm],
        second: tuple[Arm, Arm],
        what: str,
        grows: str = "grows",
        shrinks: str = "shrinks",
        expected: Expected | None = None,
    ) -> None:
        """(a - b) - (c - d) of the pairs ``first`` = (a, b) and ``second`` = (c, d): whether a difference changes.

        ``what`` names the difference; ``grows`` and ``shrinks`` complete the sentence for either sign. With ``grows``
        it is what the contrast is called.
        """

        def words(one: Contrast, stands: bool) -> str:
            if stands:
                return f"{what} {grows if one.value > 0 else shrinks}: by {one.shown} in {measure.noun}."
            return (
                f"{what}: whether it {grows} or {shrinks} cannot be told from {measure.noun}: {one.shown}. "
                f"{_detectable(one)}"
            )

        self._asked.append(
            _Asked(f"{what} {grows}", measure, [first[0], second[1]], [first[1], second[0]], words, expected)
        )

    @cached_property
    def contrasts(self) -> list[Contrast]:
        """All of them, with the p-values of Holm's method."""
        size = len(self._asked)
        found = [
            self._arms.contrast(one.label, one.measure, one.first, one.second, comparisons=size) for one in self._asked
        ]
        adjusted = statistics.holm([one.p_value for one in found])
        return [replace(one, p_holm=float(p)) for one, p in zip(found, adjusted, strict=True)]

    @cached_property
    def findings(self) -> list[Finding]:
        """One per contrast, in the order in which they came."""
        found = []
        for asked, one in zip(self._asked, self.contrasts, strict=True):
            stands = one.p_holm < ALPHA
            bare = Finding(one, stands, asked.expected, asked.words(one, stands))
            found.append(replace(bare, sentence=f"{bare.sentence}{_judged(bare)}"))
        return found

    @property
    def standing(self) -> int:
        """How many differ from 0."""
        return sum(one.stands for one in self.findings)

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


def _judged(finding: Finding) -> str:
    if finding.verdict is None:
        return ""
    predicted = "Predicted to be equal, which is" if finding.expected == "equal" else "Predicted, but"
    whole = finding.verdict if finding.stands else f"{predicted} {finding.verdict}"
    return f" *{whole[0].upper()}{whole[1:]}.*"


def _detectable(one: Contrast) -> str:
    """What 4 of 5 studies find: which difference with these seeds, and with how many seeds a difference like this."""
    found = f"A true difference of {one.measure.shown(one.detectable)} would be found by 4 of 5 such studies"
    if one.needed is None:
        return f"{found}, one of the size seen with no number of seeds."
    return f"{found}, one of the size seen by 4 of 5 with {one.needed:,} seeds."
