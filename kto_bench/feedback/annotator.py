"""Annotators: whoever says what it thinks of completions.

People, simulated people, a judge and a reward model answer the same three questions. An annotator gets everything of
one sitting at once, in the order in which it is shown, because what somebody thinks of a completion may depend on what
came before it and on what stands beside it. ``rng`` is the only source of its luck.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from kto_bench.component import Component
from kto_bench.feedback.types import Feedback, FeedbackKind, Messages


@dataclass(frozen=True)
class Candidates:
    """A prompt and the completions that an annotator is shown together."""

    id: str
    prompt: Messages
    completions: tuple[str, ...]


class Annotator(Component):
    """Whoever says what it thinks of completions; define ``name`` and those of the three questions it can answer."""

    name: str

    def answers(self, question: str) -> bool:
        """Whether it defines ``question``, which is "approve", "choose" or "rate"."""
        return getattr(type(self), question) is not getattr(Annotator, question)

    def check(self) -> None:
        """Raise ConfigError where annotating would fail for a reason that is known now, such as a missing key."""

    def at_work(self, folder: Path) -> Annotator:
        """The same for one sitting, whose stage builds ``folder``; what was paid for may be kept beside it."""
        return self

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        """A thumb for each completion, up (True) or down, in the shape of ``shown``."""
        raise TypeError(f"{type(self).__name__} does not define approve()")

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        """Of pairs only, one answer each: whether the first completion is preferred to the second."""
        raise TypeError(f"{type(self).__name__} does not define choose()")

    def rate(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[int]]:
        """A rating for each completion, from 1 (worst) to the annotator's best, in the shape of ``shown``."""
        raise TypeError(f"{type(self).__name__} does not define rate()")

    def scores(self, shown: Sequence[Candidates]) -> list[list[dict[str, float]]]:
        """What it noiselessly perceives of each completion, by name, for records; the dictionaries may be empty."""
        return [[{} for _ in candidates.completions] for candidates in shown]


class FittedAnnotator(Annotator):
    """An annotator that is first fitted to feedback that is there already: a stage of its own, shared by all rounds."""

    learns_from: ClassVar[FeedbackKind] = "paired"

    def fitting(self) -> dict[str, Any]:
        """What changes the fit, as JSON values."""
        raise TypeError(f"{type(self).__name__} does not define fitting()")

    def fit(
        self, folder: Path, policy: Path, feedback: Feedback, seed: int, progress: Callable[[int, int], None]
    ) -> None:
        """Leave in ``folder`` what was learnt of ``feedback``. ``policy`` is the checkpoint of the start."""
        raise TypeError(f"{type(self).__name__} does not define fit()")

    def fitted(self, folder: Path) -> Annotator:
        """The annotator that ``fit`` left in ``folder``."""
        raise TypeError(f"{type(self).__name__} does not define fitted()")
