"""Feedback about the sandbox: a data set like any published one, except that its seed names which one."""

from __future__ import annotations

import random
from typing import Any, Literal

from pydantic import Field

from kto_bench.feedback.types import Binary, Demonstration, Feedback, FeedbackKind, FeedbackSource, Messages, Paired
from kto_bench.sandbox.annotator import Annotator
from kto_bench.sandbox.instructions import FAMILIES, Instruction, draw, read
from kto_bench.sandbox.language import spell
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
    completions, and has a thumb for each completion, so it has twice as many rows.
    """

    name: str = "sandbox"
    kind_of_feedback: Literal["paired", "binary"] = "paired"
    pairs: int = Field(6000, ge=1)
    demonstration_rows: int = Field(4000, ge=1)
    annotator: Annotator = Annotator()
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """The fields and the version of the sandbox."""
        return identified(super().identity())

    def kind(self) -> FeedbackKind:
        """``kind_of_feedback``."""
        return self.kind_of_feedback

    def load(self) -> Feedback:
        """Draw prompts and completions from ``seed`` and have them labelled."""
        writing = random.Random(derive(self.seed, "sandbox", "completions"))
        labelling = random.Random(derive(self.seed, "sandbox", "labels", self.kind_of_feedback))
        rows: list[Paired | Binary] = []
        for number in range(self.pairs):
            instruction, prompt = question(writing, held_out=False)
            first, second = _two_completions(writing, instruction)
            if self.kind_of_feedback == "paired":
                utilities = (assess(instruction, first).utility, assess(instruction, second).utility)
                if not self.annotator.prefers_first(*utilities, rng=labelling):
                    first, second = second, first
                rows.append(Paired(f"{number:05d}", prompt, chosen=first, rejected=second))
                continue
            for side, text in zip("ab", (first, second), strict=True):
                label = self.annotator.approves(assess(instruction, text).utility, labelling)
                rows.append(Binary(f"{number:05d}{side}", prompt, text, label))
        return Feedback(self.kind_of_feedback, rows)

    def scores_of(self, prompt: Messages, completion: str) -> dict[str, float]:
        """Gold ``utility``, whether the answer is ``correct`` and whether it is ``polite`` (1 or 0)."""
        instruction = read(prompt[0]["content"])
        if instruction is None:
            return {}
        found = assess(instruction, completion)
        return {"utility": found.utility, "correct": float(found.correct), "polite": float(found.polite)}

    def demonstrations(self) -> Feedback:
        """``demonstration_rows`` demonstrations on prompts of their own."""
        rng = random.Random(derive(self.seed, "sandbox", "demonstrations"))
        rows = []
        for number in range(self.demonstration_rows):
            instruction, prompt = question(rng, held_out=False)
            rows.append(Demonstration(f"{number:05d}", prompt, spell(respond(rng, instruction, DEMONSTRATORS))))
        return Feedback("demonstrations", rows)


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
