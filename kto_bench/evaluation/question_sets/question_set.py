"""Published sets of questions that have statistics of their own, beside those of any head-to-head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kto_bench.evaluation.generation.prompts import EvaluationPrompt, PromptSource
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.feedback.types import Feedback

Numbers = NDArray[np.float64]
REPLICATES = 2000
Row = dict[str, Any]
"""A row of completions.jsonl or judgements.jsonl."""


class QuestionSet(PromptSource):
    """Questions whose authors say how judgements become a score.

    ``identity`` names what is asked, ``statistics_identity`` what is counted afterwards: changing the latter neither
    generates nor judges again.
    """

    title: ClassVar[str]
    """What tables call the set."""

    def check_files(self, judged: bool) -> None:
        """Raise ConfigError where a file cannot be used; of what is for judging only if ``judged``.

        Called before anything is computed: questions must not be found wanting once a checkpoint is trained, nor what
        statistics need once a judge is paid.
        """
        self.load(Feedback("demonstrations", []))

    def check_judge(self, judge: Judge) -> None:
        """Raise ConfigError where ``judge`` cannot judge these questions as their authors say."""

    def judging_identity(self) -> dict[str, Any]:
        """What ``judge`` depends on beside the completions and the judge; empty if on nothing."""
        return {}

    def judge(
        self,
        rows: Sequence[Row],
        judge: Judge,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        """Judge rows of completions.jsonl: (rows of judgements.jsonl in the same order, summary). Head to head."""
        from kto_bench.evaluation.judges.head_to_head import judge as judge_head_to_head

        return judge_head_to_head(rows, judge, folder, progress=progress, say=say)

    def statistics_identity(self) -> dict[str, Any]:
        """Everything that changes ``statistics`` apart from the completions and judgements."""
        raise TypeError(f"{type(self).__name__} does not define statistics_identity()")

    def statistics(self, completions: Sequence[Row], judgements: Sequence[Row], judge: Judge) -> dict[str, Any]:
        """From rows in the same order: what ``record_of`` returns."""
        raise TypeError(f"{type(self).__name__} does not define statistics()")


def record_of(title: str, values: dict[str, dict[str, float]], scale: float, **details: Any) -> dict[str, Any]:
    """What is recorded of a set: ``values`` by name, each as ``estimate`` has it; shown times ``scale``.

    ``details`` may hold ``published`` ([{"model", name of a value: number, ...}, ...]) and ``notes``: why these numbers
    are not those that are published elsewhere under the same name.
    """
    return {"set": title, "values": values, "scale": scale, **details}


def estimate(value: float, replicates: Numbers) -> dict[str, float]:
    """A value with its standard error and 95% percentile interval from bootstrap ``replicates`` of it."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return {
        "value": float(value),
        "standard_error": float(replicates.std(ddof=1)),
        "low": float(low),
        "high": float(high),
    }


def mean_over_prompts(
    values: Sequence[float] | Numbers, rng: Generator, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """``estimate`` of the (weighted) mean, whose replicates draw the prompts with their weights."""
    numbers = np.asarray(values, dtype=float)
    heavy = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=float)
    drawn = rng.integers(len(numbers), size=(REPLICATES, len(numbers)))
    replicates = (numbers * heavy)[drawn].sum(axis=1) / heavy[drawn].sum(axis=1)
    return estimate(float((numbers * heavy).sum() / heavy.sum()), replicates)


def cut_note(completions: Sequence[Row]) -> list[str]:
    """That some prompts did not fit, if so."""
    cut = sum(bool(row.get("cut")) for row in completions)
    return [f"{cut} prompts were cut (evaluation.generation.max_prompt_tokens)"] if cut else []


def unique(prompts: list[EvaluationPrompt], refuse: Callable[[str], Exception]) -> list[EvaluationPrompt]:
    """``prompts``; raises what ``refuse`` makes where there are none, or two with the same id."""
    if not prompts:
        raise refuse("it holds no questions")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise refuse(f"the question {prompt.id!r} occurs twice")
        seen.add(prompt.id)
    return prompts
