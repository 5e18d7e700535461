"""MT-Bench: 80 questions of two turns in eight categories, each answer graded from 1 to 10 by a model.

Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv 2306.05685), single-answer grading. A
grade of the second turn is for the second answer in the light of the whole conversation; questions on mathematics,
reasoning and coding are graded beside a reference answer. The score is the mean over all questions and turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.evaluation.judges.answers import Request
from kto_bench.evaluation.judges.asking import ask
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.judges.model_judge import ModelJudge
from kto_bench.evaluation.question_sets.grading import GradingWording, grade_of
from kto_bench.evaluation.question_sets.published_file import PublishedFile
from kto_bench.evaluation.question_sets.question_set import (
    QuestionSet,
    Row,
    cut_note,
    mean_over_prompts,
    record_of,
    unique,
)
from kto_bench.feedback.types import Feedback
from kto_bench.seeds import derive

QUESTIONS = PublishedFile(
    "lmsys/mt-bench", "data/mt_bench/question.jsonl", "evaluation.prompts.path", "space", "lm-sys/FastChat on GitHub"
)
REFERENCES = PublishedFile(
    "lmsys/mt-bench",
    "data/mt_bench/reference_answer/gpt-4.jsonl",
    "evaluation.prompts.reference_path",
    "space",
    "lm-sys/FastChat on GitHub",
)
WITH_REFERENCE = ("math", "reasoning", "coding")
COUNT = 80
JUDGE = "gpt-4"
"""Who gave the published grades."""


class MTBenchPrompts(QuestionSet):
    """MT-Bench's questions. ``path`` and ``reference_path`` are local copies of question.jsonl and of the reference
    answers (reference_answer/gpt-4.jsonl); null: the hub's."""

    title: ClassVar[str] = "MT-Bench"

    name: str = "mt_bench"
    path: Path | None = None
    reference_path: Path | None = None
    limit: int | None = Field(None, ge=1, description="null: all 80")

    def identity(self) -> dict[str, Any]:
        """What is asked: the content of the file of questions."""
        return {"set": "mt_bench", "content": QUESTIONS.digest(self.path), "limit": self.limit}

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """The first turns, with the second ones as next turns; ``heldout`` is not used."""
        prompts = [
            EvaluationPrompt(id_, ({"role": "user", "content": first},), next_turns=tuple(rest))
            for id_, (first, *rest) in ((_id_of(row), row["turns"]) for row in self._questions())
        ]
        return unique(prompts[: self.limit], lambda why: ConfigError(f"{QUESTIONS.field}: {why}"))

    def check_files(self, judged: bool) -> None:
        """Also that there are the reference answers that grading needs."""
        super().check_files(judged)
        if judged:
            self._references()

    def check_judge(self, judge: Judge) -> None:
        """It must be a model that is asked for grades."""
        if not isinstance(judge, ModelJudge) or not isinstance(judge.wording, GradingWording):
            raise ConfigError(
                "evaluation.judge: MT-Bench needs a model judge whose wording is "
                "kto_bench.evaluation.question_sets.grading.GradingWording; choose judge@evaluation.judge=mt_bench"
            )

    def judging_identity(self) -> dict[str, Any]:
        """The content of the reference answers."""
        return {"references": REFERENCES.digest(self.reference_path)}

    def judge(
        self,
        rows: Sequence[Row],
        judge: Judge,
        folder: Path,
        progress: Callable[[int, int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> tuple[list[Row], dict[str, Any]]:
        """Grade the answers of each turn: ``scores`` has "rating" (the mean), "rating turn 1" and "rating turn 2".

        Raises EvaluationError where a row lacks a turn, or a grade cannot be had, and ConfigError where a question
        lacks its reference answer.
        """
        self.check_judge(judge)
        assert isinstance(judge, ModelJudge)
        requests = self._requests(rows, judge.wording)
        repeated = [request for request in requests for _ in range(judge.repeats)]
        names = [f"{row['prompt_id']} turn {turn}" for row in rows for turn in (1, 2) for _ in range(judge.repeats)]
        asked = ask(judge, repeated, grade_of, folder, progress, say, names)
        asked.require("grades")
        grades = np.array(asked.values, dtype=float).reshape(len(rows), 2, judge.repeats)
        texts = np.array([answer.text for answer in asked.answers if answer], dtype=object).reshape(grades.shape)
        judgements = [
            {
                "prompt_id": row["prompt_id"],
                "preference": None,
                "scores": {
                    "rating": float(of.mean()),
                    "rating turn 1": float(of[0].mean()),
                    "rating turn 2": float(of[1].mean()),
                },
                "asks": [
                    {
                        "turn": turn + 1,
                        "repeat": repeat,
                        "rating": float(of[turn, repeat]),
                        "answer": said[turn, repeat],
                    }
                    for turn, repeat in np.ndindex(2, judge.repeats)
                ],
            }
            for row, of, said in zip(rows, grades, texts, strict=True)
        ]
        means = {name: float(np.mean([row["scores"][name] for row in judgements])) for name in judgements[0]["scores"]}
        summary: dict[str, Any] = {
            "judge": judge.name,
            "n": len(rows),
            "win_rate": None,
            "means": means,
            "account": asdict(asked.account),
        }
        if judge.repeats > 1:
            summary["noise"] = {"standard_deviation_of_a_grade": float(np.sqrt(grades.var(axis=2, ddof=1).mean()))}
        return judgements, summary

    def statistics_identity(self) -> dict[str, Any]:
        """The set; the grades say the rest."""
        return {"set": "mt_bench"}

    def statistics(self, completions: Sequence[Row], judgements: Sequence[Row], judge: Judge) -> dict[str, Any]:
        """Mean grades: of all turns, of each, and of each category. Questions are drawn whole."""
        rng = np.random.default_rng(derive(0, "mt bench"))
        scores = {row["prompt_id"]: row["scores"] for row in judgements}
        values = {
            name: mean_over_prompts([score[name] for score in scores.values()], rng) for name in judgements[0]["scores"]
        }
        by_category: dict[str, list[float]] = {}
        for question in self._questions():
            if _id_of(question) in scores:
                by_category.setdefault(question["category"], []).append(scores[_id_of(question)]["rating"])
        categories = {name: {"rating": float(np.mean(of)), "n": len(of)} for name, of in by_category.items()}
        return record_of(self.title, values, 1, categories=categories, notes=self._notes(completions, judge))

    def _notes(self, completions: Sequence[Row], judge: Judge) -> list[str]:
        notes = ["one temperature for all categories", *cut_note(completions)]
        if len(completions) != COUNT:
            notes.append(f"{len(completions)} questions, not {COUNT}")
        if getattr(judge, "model", None) != JUDGE:
            notes.append(f"the judge is not {JUDGE}")
        if getattr(getattr(judge, "wording", None), "path", None) is None:
            notes.append("the judge is asked in words of ours (evaluation.judge.wording.path)")
        return notes

    def _requests(self, rows: Sequence[Row], wording: GradingWording) -> list[Request]:
        """Two for each row: for the first turn and for the second."""
        questions = {_id_of(row): row for row in self._questions()}
        references = self._references()
        requests = []
        for row in rows:
            id_ = row["prompt_id"]
            answers = [turn["completion"] for turn in row.get("turns", [])]
            if id_ not in questions or row["prompt"][0]["content"] != questions[id_]["turns"][0] or len(answers) != 2:
                raise EvaluationError(
                    f"MT-Bench: the completion {id_!r} is no answer to both turns of a question of this set; generate "
                    "with evaluation.prompts=these questions"
                )
            turns, reference = questions[id_]["turns"], references.get(id_)
            requests += [wording.grading(turns[:1], answers[:1], reference), wording.grading(turns, answers, reference)]
        return requests

    def _questions(self) -> list[Row]:
        rows = QUESTIONS.records(self.path)
        wrong = [
            row
            for row in rows
            if "question_id" not in row or not _two_texts(row.get("turns")) or not isinstance(row.get("category"), str)
        ]
        if wrong:
            raise ConfigError(
                f"{QUESTIONS.field}: {len(wrong)} of {len(rows)} rows lack a question_id, two turns or a category, for "
                f"example {str(wrong[0])[:120]}; give MT-Bench's question.jsonl"
            )
        return rows

    def _references(self) -> dict[str, list[str]]:
        """Both turns' reference answers of the questions that are graded beside one. None may lack them."""
        needed = {_id_of(row): row["category"] for row in self._questions()[: self.limit]}
        needed = {id_: category for id_, category in needed.items() if category in WITH_REFERENCE}
        rows = REFERENCES.records(self.reference_path)
        found = {_id_of(row): _answers_of(row) for row in rows if "question_id" in row}
        missing = [id_ for id_ in needed if not _two_texts(found.get(id_))]
        if missing:
            raise ConfigError(
                f"{REFERENCES.field}: there is no reference answer for both turns of {len(missing)} of {len(needed)} "
                f"questions that are graded beside one, for example {missing[0]!r} ({needed[missing[0]]}); give "
                "MT-Bench's reference_answer/gpt-4.jsonl"
            )
        return {id_: found[id_] for id_ in needed}


def _id_of(row: Row) -> str:
    return f"mt_bench-{row['question_id']}"


def _answers_of(row: Row) -> Any:
    try:
        return row["choices"][0]["turns"]
    except (KeyError, IndexError, TypeError):
        return None


def _two_texts(texts: Any) -> bool:
    return isinstance(texts, list) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
