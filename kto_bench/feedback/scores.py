"""Completions with scores as labels or as pairs. Pure functions of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean
from typing import Literal

from pydantic import Field

from kto_bench.component import Component
from kto_bench.feedback.conversions import prompt_key
from kto_bench.feedback.types import Messages

Threshold = float | Literal["prompt_mean"]


@dataclass(frozen=True, slots=True)
class Scored:
    """A completion and what somebody thought of it: the higher, the better."""

    id: str
    place: str
    prompt: Messages
    completion: str
    score: float


class ScoreRule(Component):
    """Which scores are desirable, and which differences of scores are preferences.

    Binary, with t the ``threshold`` and m the ``margin``: a score of t + m or more is desirable, one below t - m is
    undesirable (at t - m, too, where m > 0), and what is between says nothing and is left out. "prompt_mean" takes for
    t the mean score of the completions of the same prompt. Pairs: the better of two is preferred if it is better by
    more than 0, and by ``margin`` at least.
    """

    threshold: Threshold = Field("prompt_mean", description="a number, or prompt_mean: the prompt's mean score")
    margin: float = Field(0.0, ge=0, allow_inf_nan=False, description="how clear it must be; less is left out")


def labels(rows: Sequence[Scored], rule: ScoreRule) -> list[bool | None]:
    """Whether each completion is desirable; None where its score is too near to the threshold to say."""
    means: dict[str, float] = {}
    if rule.threshold == "prompt_mean":
        scores: dict[str, list[float]] = {}
        for row in rows:
            scores.setdefault(prompt_key(row.prompt), []).append(row.score)
        # Exact: the mean of equal scores is that score, and the order of the rows is nothing to it.
        means = {key: mean(values) for key, values in scores.items()}
    found: list[bool | None] = []
    for row in rows:
        middle = means[prompt_key(row.prompt)] if rule.threshold == "prompt_mean" else float(rule.threshold)
        # A prompt whose completions are all as good as each other says nothing about any of them.
        if rule.threshold == "prompt_mean" and row.score == middle:
            found.append(None)
        elif row.score >= middle + rule.margin:
            found.append(True)
        elif row.score < middle and row.score <= middle - rule.margin:
            found.append(False)
        else:
            found.append(None)
    return found


def preferred(first: Scored, second: Scored, rule: ScoreRule) -> tuple[Scored, Scored] | None:
    """(better, worse); None where the difference is 0 or below the margin."""
    difference = first.score - second.score
    if difference == 0 or abs(difference) < rule.margin:
        return None
    return (first, second) if difference > 0 else (second, first)


def in_prompts(rows: Iterable[Scored]) -> Iterator[list[Scored]]:
    """Neighbours with the same prompt, together."""
    for _, group in groupby(rows, key=lambda row: prompt_key(row.prompt)):
        yield list(group)
