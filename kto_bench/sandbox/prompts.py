"""Held-out questions of the sandbox, each with a completion to be compared with."""

from __future__ import annotations

import random
from typing import Any

from pydantic import Field

from kto_bench.evaluation.generation.prompts import EvaluationPrompt, PromptSource
from kto_bench.feedback.types import Feedback, Messages
from kto_bench.sandbox.feedback import DEMONSTRATORS, question
from kto_bench.sandbox.instructions import read
from kto_bench.sandbox.language import spell
from kto_bench.sandbox.responses import respond
from kto_bench.sandbox.world import identified
from kto_bench.seeds import derive


class SandboxPrompts(PromptSource):
    """``count`` distinct questions whose cores no training data ask about.

    The reference is written by those who wrote the demonstrations, so a model that imitates them perfectly would win
    half of the comparisons.
    """

    name: str = "sandbox"
    count: int = Field(256, ge=1, le=2000)
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """The fields and the version of the sandbox."""
        return identified(super().identity())

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """The questions, in a fixed order; ``heldout`` is not used."""
        rng = random.Random(derive(self.seed, "sandbox", "evaluation prompts"))
        found: dict[str, EvaluationPrompt] = {}
        while len(found) < self.count:
            instruction, prompt = question(rng, held_out=True)
            reference = spell(respond(rng, instruction, DEMONSTRATORS))
            row = EvaluationPrompt(f"sandbox-{len(found):04d}", prompt, reference)
            found.setdefault(prompt[0]["content"], row)
        return list(found.values())

    def same_question(self, prompt: Messages) -> str:
        """The core of the question, which may be asked in other words."""
        core = read(prompt[0]["content"])
        assert core is not None, "every sandbox question can be read"
        return " ".join([core.family, *core.arguments])
