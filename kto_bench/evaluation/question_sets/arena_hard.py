"""Arena-Hard: hard prompts of real users, compared with a baseline in both orders, with five verdicts.

Li et al. 2024, "From Crowdsourced Data to High-Quality Benchmarks: Arena-Hard and BenchBuilder Pipeline"
(arXiv 2406.11939). A verdict that one answer is much better counts as three wins. With one model and one baseline their
Bradley-Terry fit is the mean of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.judges.model_judge import ModelJudge
from kto_bench.evaluation.question_sets.published_file import PublishedFile
from kto_bench.evaluation.question_sets.question_set import (
    QuestionSet,
    Row,
    cut_note,
    mean_over_prompts,
    record_of,
    unique,
)
from kto_bench.evaluation.question_sets.verdicts import VERDICTS, ArenaHardWording, verdict_of
from kto_bench.feedback.types import Feedback
from kto_bench.seeds import derive

BASELINES: dict[str, dict[str | None, str]] = {
    "v0.1": {None: "gpt-4-0314"},
    "v2.0": {"hard_prompt": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"},
}
"""By version and category, whose answers the published scores compare with."""
COUNTS = {None: 500, "hard_prompt": 500, "creative_writing": 250}
"""Questions by category."""
JUDGES = {"v0.1": ("gpt-4-1106-preview",), "v2.0": ("gpt-4.1", "gemini-2.5")}
"""By version, whose verdicts the published scores count."""


class ArenaHardPrompts(QuestionSet):
    """Arena-Hard's prompts and its baseline's answers.

    ``path`` and ``baseline_path`` are local copies of question.jsonl and of the baseline's model_answer; null: the
    hub's. Version 2.0 has two categories with a baseline each: choose one.
    """

    title: ClassVar[str] = "Arena-Hard"

    name: str = "arena_hard"
    version: Literal["v0.1", "v2.0"] = "v0.1"
    category: str | None = None
    path: Path | None = None
    baseline_path: Path | None = None
    limit: int | None = Field(None, ge=1, description="null: all")

    @model_validator(mode="after")
    def _has_a_baseline(self) -> ArenaHardPrompts:
        if self.category not in BASELINES[self.version]:
            allowed = ", ".join("null" if known is None else known for known in BASELINES[self.version])
            raise ConfigError(
                f"evaluation.prompts.category: {self.category!r} is not allowed: {self.version} has {allowed}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What is asked and compared with: the contents of both files, and what is taken of them."""
        questions, answers = self._files
        return {
            "set": "arena_hard",
            "questions": questions.digest(self.path),
            "baseline": answers.digest(self.baseline_path),
            "category": self.category,
            "limit": self.limit,
        }

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """The prompts in their published order, joined with the baseline's answers; ``heldout`` is not used."""
        questions, answers = self._files
        rows = [row for row in questions.records(self.path) if self.category in (None, row.get("category"))]
        asked = [_read(row, _prompt_of, questions, "a prompt") for row in rows]
        baseline = {
            _id_of(row): _read(row, _answer_of, answers, "an answer") for row in answers.records(self.baseline_path)
        }
        missing = [_id_of(row) for row in rows if _id_of(row) not in baseline]
        if missing:
            raise ConfigError(
                f"{answers.field}: {len(missing)} of {len(rows)} questions have no answer of the baseline, for example "
                f"{missing[:3]}; give the file that belongs to these questions"
            )
        prompts = [
            EvaluationPrompt(_id_of(row), ({"role": "user", "content": text},), baseline[_id_of(row)])
            for row, text in zip(rows, asked, strict=True)
        ]
        return unique(prompts[: self.limit], lambda why: ConfigError(f"{questions.field}: {why}"))

    def check_judge(self, judge: Judge) -> None:
        """It must be a model that is asked for five verdicts, in both orders."""
        if not isinstance(judge, ModelJudge) or not isinstance(judge.wording, ArenaHardWording):
            raise ConfigError(
                "evaluation.judge: Arena-Hard needs a model judge whose wording is "
                "kto_bench.evaluation.question_sets.verdicts.ArenaHardWording; choose judge@evaluation.judge=arena_hard"
            )
        if judge.orders != "both":
            raise ConfigError(
                "evaluation.judge.orders: 'random' is not allowed: Arena-Hard judges in both; choose both"
            )

    def statistics_identity(self) -> dict[str, Any]:
        """The weights of the verdicts."""
        return {"set": "arena_hard", "version": self.version, "verdicts": VERDICTS}

    def statistics(self, completions: Sequence[Row], judgements: Sequence[Row], judge: Judge) -> dict[str, Any]:
        """The score: the share of wins over all verdicts, strong ones counting three times. Prompts are drawn whole."""
        scores = [_score_of(row, judge.repeats) for row in judgements]
        rng = np.random.default_rng(derive(0, "arena hard"))
        values = {"score": mean_over_prompts([score for score, _ in scores], rng, [weight for _, weight in scores])}
        return record_of(f"{self.title} {self.version}", values, 100, notes=self._notes(completions, judge))

    def _notes(self, completions: Sequence[Row], judge: Judge) -> list[str]:
        notes = cut_note(completions)
        if len(completions) != COUNTS[self.category]:
            notes.append(f"{len(completions)} questions, not {COUNTS[self.category]}")
        if getattr(judge, "model", None) not in JUDGES[self.version]:
            notes.append(f"the judge is not {' or '.join(JUDGES[self.version])}")
        if getattr(getattr(judge, "wording", None), "path", None) is None:
            notes.append("the judge is asked in words of ours (evaluation.judge.wording.path)")
        elif self.version != "v0.1":
            notes.append("the judge is asked in the words of v0.1")
        return notes

    @property
    def _files(self) -> tuple[PublishedFile, PublishedFile]:
        home, folder = "lmarena-ai/arena-hard-auto", f"data/arena-hard-{self.version}"
        baseline = BASELINES[self.version][self.category]
        return (
            PublishedFile(home, f"{folder}/question.jsonl", "evaluation.prompts.path"),
            PublishedFile(home, f"{folder}/model_answer/{baseline}.jsonl", "evaluation.prompts.baseline_path"),
        )


def _score_of(judgement: Row, repeats: int) -> tuple[float, float]:
    """Our (weighted) share of the wins in the verdicts on one prompt, and the sum of their weights.

    Identical texts tie unasked, as often as others are judged: in both orders, ``repeats`` times.
    """
    wins = weights = 0.0
    for asked in judgement.get("asks", []):
        verdict = verdict_of(asked["answer"])
        if verdict is None:
            raise EvaluationError(f"Arena-Hard: the verdict on {judgement['prompt_id']!r} cannot be read: {asked!r}")
        preference, weight = VERDICTS[verdict]
        for_first = 2.0 - preference
        wins += weight * (for_first if asked["ours"] == 1 else 1.0 - for_first)
        weights += weight
    return (wins / weights, weights) if weights else (float(judgement["preference"]), 2.0 * repeats)


def _id_of(row: Row) -> str:
    """Version 0.1 calls it question_id, 2.0 uid."""
    return str(row.get("uid", row.get("question_id")))


def _read(row: Row, read: Callable[[Row], str], file: PublishedFile, what: str) -> str:
    try:
        if not {"uid", "question_id"} & set(row):
            raise KeyError("uid")
        return read(row)
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f"{file.field}: the row {json.dumps(row)[:120]} lacks {what} ({type(error).__name__}: {error}); give a "
            f"copy of {file.filename}"
        ) from error


def _prompt_of(row: Row) -> str:
    turn = row["prompt"] if "prompt" in row else row["turns"][0]
    return str(turn["content"] if isinstance(turn, dict) else turn)


def _answer_of(row: Row) -> str:
    """Version 0.1 has {"choices": [{"turns": [{"content"}]}]}, 2.0 {"messages": [..., {"content": {"answer"}}]}."""
    if "choices" in row:
        content: Any = row["choices"][0]["turns"][0]
        return str(content["content"] if isinstance(content, dict) else content)
    content = row["messages"][-1]["content"]
    if isinstance(content, dict):
        content = content["answer"]
    if not isinstance(content, str):
        raise ConfigError(f"evaluation.prompts.baseline_path: the answer {json.dumps(content)[:80]} is no text")
    return content
