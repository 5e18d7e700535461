"""The gold utility as a judge, for alpaca_eval like any other."""

from __future__ import annotations

from typing import Any

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.sandbox.instructions import read
from kto_bench.sandbox.utility import Assessment, assess
from kto_bench.sandbox.world import identified


class GoldUtilityJudge(Judge):
    """Prefers the completion with the higher gold utility; equal utilities are a tie. It has no noise."""

    name: str = "gold_utility"

    def identity(self) -> dict[str, Any]:
        """The fields and the version of the sandbox."""
        return identified(super().identity())

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        """1 or 2 for the better output, 1.5 for a tie."""
        first, second = (_assess(instruction, output).utility for output in (output_1, output_2))
        return 1.5 if first == second else 1.0 if first > second else 2.0

    def scores(self, instruction: str, completion: str) -> dict[str, float]:
        """The gold utility, and whether the answer is complete and correct (1 or 0)."""
        assessment = _assess(instruction, completion)
        return {"utility": assessment.utility, "correct": float(assessment.correct)}


def _assess(instruction: str, completion: str) -> Assessment:
    question = read(instruction)
    if question is None:
        raise EvaluationError(
            f"the gold utility is known for sandbox questions only, not for {instruction!r}: "
            "use this judge with prompts of kto_bench.sandbox.prompts.SandboxPrompts"
        )
    return assess(question, completion)
