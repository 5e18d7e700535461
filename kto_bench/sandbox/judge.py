"""The gold utility as a judge, for alpaca_eval like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SerializeAsAny, field_validator

from kto_bench.component import build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.sandbox.instructions import read
from kto_bench.sandbox.utility import Assessment, assess
from kto_bench.sandbox.world import identified


class GoldUtilityJudge(Judge):
    """Prefers the completion with the higher gold utility; equal utilities are a tie. It has no noise.

    With an ``annotator`` its scores also tell what that one perceives, noiselessly; its preference stays the same.
    """

    name: str = "gold_utility"
    annotator: SerializeAsAny[Annotator] | None = None

    @field_validator("annotator", mode="before")
    @classmethod
    def _annotator(cls, node: Any) -> Any:
        return build(node, Annotator, "evaluation.judge.annotator") if isinstance(node, Mapping) else node

    def identity(self) -> dict[str, Any]:
        """The fields and the version of the sandbox; of the annotator, where there is one, its identity."""
        identity = super().identity()
        del identity["annotator"]
        return identified(identity if self.annotator is None else {**identity, "annotator": self.annotator.identity()})

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        """1 or 2 for the better output, 1.5 for a tie."""
        first, second = (_assess(instruction, output).utility for output in (output_1, output_2))
        return 1.5 if first == second else 1.0 if first > second else 2.0

    def scores(self, instruction: str, completion: str) -> dict[str, float]:
        """The gold utility, whether the answer is complete and correct (1 or 0), and what the annotator perceives."""
        assessment = _assess(instruction, completion)
        scores = {"utility": assessment.utility, "correct": float(assessment.correct)}
        if self.annotator is None:
            return scores
        shown = Candidates(instruction, ({"role": "user", "content": instruction},), (completion,))
        return {**self.annotator.scores([shown])[0][0], **scores}


def _assess(instruction: str, completion: str) -> Assessment:
    question = read(instruction)
    if question is None:
        raise EvaluationError(
            f"the gold utility is known for sandbox questions only, not for {instruction!r}: "
            "use this judge with prompts of kto_bench.sandbox.prompts.SandboxPrompts"
        )
    return assess(question, completion)
