"""What a checkpoint is asked: evaluation prompts and the completions it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from kto_bench.component import Component
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.feedback.conversions import as_demonstrations, prompt_key, question_key
from kto_bench.feedback.types import Feedback, Messages
from kto_bench.seeds import derive

Split = Literal["all", "validation", "test"]
"""Validation and test are two halves of all prompts and share none."""


@dataclass(frozen=True, slots=True)
class EvaluationPrompt:
    """One held-out prompt. ``reference`` is the completion that the checkpoint is compared with head to head.

    ``next_turns`` are what the user says next, each after the checkpoint's own answer to what came before.
    """

    id: str
    prompt: Messages
    reference: str | None = None
    next_turns: tuple[str, ...] = ()


class PromptSource(Component):
    """Where evaluation prompts come from."""

    name: str
    uses_heldout: ClassVar[bool] = False
    """Whether the prompts come from the run's held-out feedback."""

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """The prompts, in a fixed order. ``heldout`` is the part of the run's feedback that is never trained on."""
        raise TypeError(f"{type(self).__name__} does not define load()")

    def same_question(self, prompt: Messages) -> str:
        """A text that is equal for prompts that ask the same: these are all for validation, or all for the test."""
        return question_key(prompt)

    def part(self, heldout: Feedback, split: Split) -> list[EvaluationPrompt]:
        """The prompts of ``load`` that are in ``split``, about half of them each.

        The side of a prompt follows from its text alone, by a hash, so no seed, limit or other prompt moves it. Raises
        EvaluationError where none is left.
        """
        prompts = self.load(heldout)
        if split == "all":
            return prompts
        side = {"validation": 0, "test": 1}[split]
        found = [prompt for prompt in prompts if derive(0, "validation", self.same_question(prompt.prompt)) % 2 == side]
        if prompts and not found:
            raise EvaluationError(
                f"evaluation.split: none of the {len(prompts)} prompts of {self.name!r} is for {split}; ask more"
            )
        return found


class HeldOutFeedback(PromptSource):
    """The prompts of the held-out feedback, compared with its chosen (or desirable, or demonstrated) completion.

    A prompt of which no good completion is known has nothing to be compared with, and is left out.
    """

    uses_heldout: ClassVar[bool] = True

    name: str = "heldout"
    limit: int | None = Field(None, ge=1)

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """One prompt for each distinct prompt with a good completion (its first), at most ``limit`` of them."""
        found: dict[str, EvaluationPrompt] = {}
        for row in as_demonstrations(heldout).rows:
            found.setdefault(prompt_key(row.prompt), EvaluationPrompt(row.id, row.prompt, row.completion))
        return list(found.values())[: self.limit]
