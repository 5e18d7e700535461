"""Any judge as an annotator: a Python function of yours, a language model, a gold utility."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from kto_bench.component import build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.comparisons import Comparisons, instruction_of
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.seeds import derive


class JudgeAnnotator(Annotator):
    """What ``judge`` would say.

    A choice is the judge's preference between the two completions, asked as in a head to head: in an order that is
    drawn, or in both, as often as its ``repeats`` say. A tie is decided by a coin. A thumb is up where the judge
    prefers the completion to the next one of the same prompt (of the last: to the first), so of two samples one is up
    and one is down, and equal ones share a coin. With ``score``, one of the numbers that the judge gives to a
    completion by itself, the thumb is up where that is above ``threshold``; then a prompt may have any number of
    thumbs up.
    """

    name: str = "judge"
    judge: Any
    score: str | None = Field(None, description="thumbs by this one of the judge's scores instead of comparisons")
    threshold: float = Field(0.0, description="the score above which a thumb is up")
    _folder: Path | None = PrivateAttr(None)

    @field_validator("judge")
    @classmethod
    def _judge(cls, node: Any) -> Judge:
        return node if isinstance(node, Judge) else build(node, Judge, "feedback.annotator.judge")

    @model_validator(mode="after")
    def _asks_something(self) -> JudgeAnnotator:
        if self.score is None and self.threshold:
            raise ValueError(
                f"threshold: {self.threshold} is of no use without score; name one of the judge's scores, or leave it"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The fields, with the judge's own identity."""
        return {**super().identity(), "judge": self.judge.identity()}

    def check(self) -> None:
        """As the judge checks itself."""
        self.judge.check()

    def at_work(self, folder: Path) -> JudgeAnnotator:
        """The same, whose judge keeps its answers beside ``folder`` until the stage is whole."""
        annotator = self.model_copy()
        annotator._folder = folder
        return annotator

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        """Whether the judge prefers the first completion."""
        pairs = [_Pair(one.id, one, *one.completions) for one in shown]
        return self._first_wins(pairs, rng)

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        """Thumbs by ``score``, or by comparison with the next completion of the prompt."""
        if self.score is not None:
            return [[self._score_of(of) > self.threshold for of in scores] for scores in self.scores(shown)]
        single = next((one.id for one in shown if len(one.completions) < 2), None)
        if single is not None:
            raise EvaluationError(
                f"annotator {self.name!r}: {single} has one completion, and thumbs come from comparisons of two; raise "
                "feedback.samples_per_prompt, or name a score of the judge"
            )
        pairs = []
        for one in shown:
            n = len(one.completions)
            for first in range(n if n > 2 else 1):
                second = (first + 1) % n
                pairs.append(_Pair(f"{one.id}/{first}", one, one.completions[first], one.completions[second]))
        wins = iter(self._first_wins(pairs, rng))
        thumbs = []
        for one in shown:
            n = len(one.completions)
            won = [next(wins) for _ in range(n if n > 2 else 1)]
            thumbs.append(won if n > 2 else [won[0], not won[0]])
        return thumbs

    def scores(self, shown: Sequence[Candidates]) -> list[list[dict[str, float]]]:
        """The judge's scores of each completion by itself."""
        return [[self.judge.scores(instruction_of(one.prompt), text) for text in one.completions] for one in shown]

    def _score_of(self, scores: dict[str, float]) -> float:
        assert self.score is not None
        if self.score not in scores:
            raise EvaluationError(
                f"feedback.annotator.score: {self.score!r} is none of the scores of judge {self.judge.name!r}, which "
                f"gives {sorted(scores) or 'none'}; name one of these, or set score to null"
            )
        return scores[self.score]

    def _first_wins(self, pairs: Sequence[_Pair], rng: random.Random) -> list[bool]:
        seed = derive(rng.getrandbits(31), "order")
        preferences = {pair.name: 0.5 for pair in pairs}
        asked = [pair for pair in pairs if pair.first != pair.second]
        if asked:
            rows = [
                {"prompt_id": pair.name, "prompt": pair.of.prompt, "completion": pair.first, "reference": pair.second}
                for pair in asked
            ]
            preferences |= self._preferences(rows, seed)
        return [_decided(preferences[pair.name], rng) for pair in pairs]

    def _preferences(self, rows: list[dict[str, Any]], seed: int) -> dict[str, float]:
        """By name of the pair: 1 for the first completion, 0 for the second, 0.5 for a tie, or the mean of several."""
        with tempfile.TemporaryDirectory() as scratch:
            verdicts, _ = Comparisons(rows, self.judge, seed).annotated(self._folder or Path(scratch), None, None)
        found: dict[str, list[float]] = {}
        for verdict in verdicts:
            found.setdefault(verdict.prompt_id, []).append(verdict.preference)
        return {name: fmean(of) for name, of in found.items()}


@dataclass(frozen=True)
class _Pair:
    name: str
    of: Candidates
    first: str
    second: str


def _decided(preference: float, rng: random.Random) -> bool:
    return rng.random() < 0.5 if preference == 0.5 else preference > 0.5
