"""Feedback about the sandbox: a data set like any published one, except that its seed names which one."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator

from kto_bench.component import ConfigError, build
from kto_bench.feedback.annotated import from_choices, from_ratings, from_thumbs
from kto_bench.feedback.annotator import Annotator, Candidates, FittedAnnotator
from kto_bench.feedback.scores import ScoreRule
from kto_bench.feedback.types import Demonstration, Feedback, FeedbackKind, FeedbackSource, Messages
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.instructions import FAMILIES, Instruction, draw, read
from kto_bench.sandbox.language import spell
from kto_bench.sandbox.perception import STYLE, impression
from kto_bench.sandbox.responses import Mixture, respond
from kto_bench.sandbox.utility import assess
from kto_bench.sandbox.world import identified
from kto_bench.seeds import derive

ASSISTANTS: Mixture = {"good": 0.40, "mid": 0.35, "bad": 0.15, "terse": 0.10}
"""Who wrote the completions that the annotator saw."""
DEMONSTRATORS: Mixture = {"good": 0.60, "mid": 0.40}
"""Who wrote the demonstrations: a mediocre crowd, which leaves alignment something to improve."""


class SandboxFeedback(FeedbackSource):
    """``pairs`` prompts with two completions each, labelled by ``annotator``; no prompt has a held-out core.

    Paired feedback says which completion of a prompt is preferred. Binary feedback is about the same prompts and
    completions, and has a thumb for each completion, so it has twice as many rows. With ``scores`` the annotator is
    asked for ratings instead, and either kind is made of them; what they leave open is dropped and counted.
    """

    name: str = "sandbox"
    kind_of_feedback: Literal["paired", "binary"] = "paired"
    pairs: int = Field(6000, ge=1)
    heldout_pairs: int = Field(0, ge=0, description="prompts with held-out cores, two completions each, for evaluation")
    demonstration_rows: int = Field(4000, ge=1)
    annotator: SerializeAsAny[Annotator] = SimulatedAnnotator()
    scores: ScoreRule | None = Field(None, description="how ratings become labels or pairs; null: thumbs, or choices")
    seed: int = 0

    @field_validator("annotator", mode="before")
    @classmethod
    def _annotator(cls, node: Any) -> Any:
        return build(node, Annotator, "feedback.annotator") if isinstance(node, Mapping) else node

    @field_validator("heldout_fraction")
    @classmethod
    def _by_core(cls, fraction: float) -> float:
        if fraction:
            raise ValueError("in the sandbox questions are held out by core; choose heldout_pairs, such as 300")
        return fraction

    @property
    def holds_out(self) -> bool:
        """Whether there are ``heldout_pairs``."""
        return self.heldout_pairs > 0

    def identity(self) -> dict[str, Any]:
        """The fields, the annotator's identity and the version of the sandbox."""
        return identified({**super().identity(), "annotator": self.annotator.identity()})

    def kind(self) -> FeedbackKind:
        """``kind_of_feedback``."""
        return self.kind_of_feedback

    def check(self) -> None:
        """Refuse an annotator that cannot answer, or not yet."""
        question = "rate" if self.scores else {"paired": "choose", "binary": "approve"}[self.kind_of_feedback]
        if isinstance(self.annotator, FittedAnnotator) or not self.annotator.answers(question):
            asked = (
                f"feedback.scores={self.scores.model_dump()}" if self.scores else f"{self.kind_of_feedback} feedback"
            )
            raise ConfigError(
                f"feedback.annotator: {self.annotator.name!r} cannot {question} completions before anything is "
                f"trained, as {asked} of {self.name!r} asks; choose an annotator of the sandbox, such as "
                "annotator@feedback.annotator=median_human"
            )
        self.annotator.check()

    def load(self) -> Feedback:
        """Draw prompts and completions from ``seed`` and have them labelled, in one sitting."""
        return self._labelled(self.pairs, held_out=False)

    def heldout(self) -> Feedback | None:
        """The same about held-out cores, from streams of its own; None where there are no ``heldout_pairs``."""
        return self._labelled(self.heldout_pairs, held_out=True) if self.holds_out else None

    def _labelled(self, pairs: int, held_out: bool) -> Feedback:
        part = ("heldout",) if held_out else ()
        labelling = random.Random(derive(self.seed, "sandbox", *part, "labels", self.kind_of_feedback))
        shown = comparisons(self.seed, pairs, held_out)
        if self.scores is not None:
            return from_ratings(shown, self.annotator.rate(shown, labelling), self.kind_of_feedback, self.scores)
        if self.kind_of_feedback == "paired":
            return from_choices(shown, self.annotator.choose(shown, labelling))
        return from_thumbs(shown, self.annotator.approve(shown, labelling))

    def scores_of(self, prompt: Messages, completion: str) -> dict[str, float]:
        """Gold ``utility``, whether the answer is ``correct`` (1 or 0), its style, and what the annotator perceives.

        Of the style what is no length: ``politeness``, ``flattery`` and ``confidence``, 1 or 0 (perception.py).
        """
        question = prompt[-1]["content"]
        seen, instruction = impression(question, completion), read(question)
        assert instruction is not None, "impression refuses what is no question of the sandbox"
        style = {name: value for name, value in zip(STYLE, seen.style, strict=True) if name != "length"}
        correct = float(assess(instruction, completion).correct)
        perceived = self.annotator.scores([Candidates("", prompt, (completion,))])[0][0]
        return {**style, **perceived, "utility": seen.utility, "correct": correct}

    def demonstrations(self) -> Feedback:
        """``demonstration_rows`` demonstrations on prompts of their own."""
        rng = random.Random(derive(self.seed, "sandbox", "demonstrations"))
        rows = []
        for number in range(self.demonstration_rows):
            instruction, prompt = question(rng, held_out=False)
            rows.append(Demonstration(f"{number:05d}", prompt, spell(respond(rng, instruction, DEMONSTRATORS))))
        return Feedback("demonstrations", rows)


def comparisons(seed: int, pairs: int, held_out: bool) -> list[Candidates]:
    """``pairs`` prompts and two completions of each: what ``seed`` has annotators look at."""
    part = ("heldout",) if held_out else ()
    rng = random.Random(derive(seed, "sandbox", *part, "completions"))
    shown = []
    for number in range(pairs):
        instruction, prompt = question(rng, held_out)
        shown.append(Candidates("-".join([*part, f"{number:05d}"]), prompt, _two_completions(rng, instruction)))
    return shown


def question(rng: random.Random, held_out: bool) -> tuple[Instruction, Messages]:
    """A random question, every family equally likely, and the prompt that asks it."""
    instruction = draw(rng, rng.choice(FAMILIES), held_out)
    return instruction, ({"role": "user", "content": spell(instruction.wording(rng))},)


def _two_completions(rng: random.Random, instruction: Instruction) -> tuple[str, str]:
    """Two different completions: a choice between equals says nothing."""
    first = second = respond(rng, instruction, ASSISTANTS)
    while second == first:
        second = respond(rng, instruction, ASSISTANTS)
    return spell(first), spell(second)
