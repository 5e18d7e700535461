"""What a checkpoint is asked: evaluation prompts and the completions it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kto_bench.component import Component
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
    """The prompts of the held-out feedback, compared with its chosen (or desirable, or demonstrated) completion."""

    uses_heldout: ClassVar[bool] = True

    name: str = "heldout"
    limit: int | None = None

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """One prompt for each distinct prompt of ``heldout``, at most ``limit`` of them."""
        found: dict[Any, EvaluationPrompt] = {}
        for row in heldout.rows:
            key = tuple((message["role"], message["content"]) for message in row.prompt)
            good = getattr(row, "chosen", None) or (row.completion if getattr(row, "label", True) else None)
            if key not in found or found[key].reference is None:
                found[key] = EvaluationPrompt(found[key].id if key in found else row.id, row.prompt, good)
        return list(found.values())[: self.limit]
