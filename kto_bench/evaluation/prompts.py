"""What a checkpoint is asked: evaluation prompts and the completions it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from kto_bench.component import Component
from kto_bench.feedback.conversions import as_demonstrations, prompt_key
from kto_bench.feedback.types import Feedback, Messages


@dataclass(frozen=True, slots=True)
class EvaluationPrompt:
    """One held-out prompt. ``reference`` is the completion that the checkpoint is compared with head to head."""

    id: str
    prompt: Messages
    reference: str | None = None


class PromptSource(Component):
    """Where evaluation prompts come from."""

    name: str
    uses_heldout: ClassVar[bool] = False
    """Whether the prompts come from the run's held-out feedback."""

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """The prompts, in a fixed order. ``heldout`` is the part of the run's feedback that is never trained on."""
        raise TypeError(f"{type(self).__name__} does not define load()")


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
