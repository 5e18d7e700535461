"""Grades from 1 to 10 for the last answer of a conversation: how a model is asked for them, how they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from kto_bench.component import ConfigError
from kto_bench.evaluation.judges.answers import Answer, Request
from kto_bench.evaluation.judges.judge import PLAIN_TEMPLATE
from kto_bench.evaluation.judges.wording import Wording

_GRADES = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
_FIELD = re.compile(r"{(\w+)}")
_TASK = """\
You grade answers of an assistant. Say in a few sentences what is good and what is bad about {graded}: whether it is \
correct, answers what was asked, and is as deep and as clear as it should be.{beside} Then give a grade from 1 \
(useless) to 10 (could not be better), in double brackets on a line of its own, like this: [[5]]"""
_ONE_TURN = "Question:\n{question}\n\n%sAnswer of the assistant:\n{answer}\n\nEnd of the answer."
_TWO_TURNS = (
    "%sUser:\n{question_1}\n\nAssistant:\n{answer_1}\n\nUser:\n{question_2}\n\nAssistant:\n{answer_2}\n\n"
    "End of the conversation."
)


def _template(turns: int, with_reference: bool) -> dict[str, str]:
    graded = "the answer" if turns == 1 else "the second answer, read in its conversation"
    beside = " You are given a correct answer; find every mistake by comparing with it." if with_reference else ""
    correct = {1: "Correct answer:\n{ref_answer_1}\n\n", 2: "Correct answers:\n{ref_answer_1}\n\n{ref_answer_2}\n\n"}
    shown = (_ONE_TURN if turns == 1 else _TWO_TURNS) % (correct[turns] if with_reference else "")
    return {"system_prompt": _TASK.format(graded=graded, beside=beside), "prompt_template": shown}


NAMES = {
    (1, False): "single-v1",
    (1, True): "single-math-v1",
    (2, False): "single-v1-multi-turn",
    (2, True): "single-math-v1-multi-turn",
}
"""What FastChat calls the prompt for a number of turns, without and with reference answers."""


class GradingWording(Wording):
    """Four prompts (one or two turns, with or without reference answers), in words of ours, or in MT-Bench's own where
    ``path`` names its ``judge_prompts.jsonl``."""

    prompt_template: str = Field(PLAIN_TEMPLATE, description="not used: grades compare nothing")
    path: Path | None = Field(None, description="fastchat/llm_judge/data/judge_prompts.jsonl of lm-sys/FastChat")
    templates: dict[str, dict[str, str]] = Field({}, description="the four prompts by FastChat's names; filled in")

    @model_validator(mode="before")
    @classmethod
    def _templates_of_file(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("templates"):
            return values
        path = values.get("path")
        ours = {name: _template(*kind) for kind, name in NAMES.items()}
        return {**values, "templates": ours if path is None else _read(Path(path))}

    def identity(self) -> dict[str, Any]:
        """The four prompts, wherever they are from."""
        return {"_target_": super().identity()["_target_"], "templates": self.templates}

    def grading(self, questions: Sequence[str], answers: Sequence[str], references: Sequence[str] | None) -> Request:
        """The conversation that asks for a grade of the last of one or two ``answers``.

        Texts are put in as they are and in one pass: nothing in them is taken for a placeholder.
        """
        template = self.templates[NAMES[len(answers), references is not None]]
        shown = {"question": questions[0], "answer": answers[0]}
        for kind, texts in (("question", questions), ("answer", answers), ("ref_answer", references or ())):
            shown |= {f"{kind}_{turn}": text for turn, text in enumerate(texts, start=1)}
        user = _FIELD.sub(lambda match: shown.get(match[1], match[0]), template["prompt_template"])
        return {"role": "system", "content": template["system_prompt"]}, {"role": "user", "content": user}


def grade_of(answer: Answer) -> float | None:
    """The first [[grade]] in an answer, or else the first [grade]; None where there is none from 1 to 10."""
    match = next((match for pattern in _GRADES if (match := pattern.search(answer.text))), None)
    return float(match[1]) if match is not None and 1 <= float(match[1]) <= 10 else None


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        found = {row["name"]: {part: row[part] for part in ("system_prompt", "prompt_template")} for row in rows}
        return {name: found[name] for name in NAMES.values()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"evaluation.judge.wording.path: {path} is not MT-Bench's judge_prompts.jsonl, with the prompts "
            f"{', '.join(NAMES.values())} ({type(error).__name__}: {error})"
        ) from error
