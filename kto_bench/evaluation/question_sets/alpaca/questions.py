"""AlpacaEval's 805 instructions with the outputs that answers to them are compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.question_sets.alpaca import length_control, published
from kto_bench.evaluation.question_sets.alpaca.length_control import FOLDS, LengthControl
from kto_bench.evaluation.question_sets.alpaca.published import Version
from kto_bench.evaluation.question_sets.alpaca.win_rates import win_rates
from kto_bench.evaluation.question_sets.alpaca.wording import AlpacaEvalWording, settings_of
from kto_bench.evaluation.question_sets.published_file import PublishedFile
from kto_bench.evaluation.question_sets.question_set import QuestionSet, Row, cut_note, record_of, unique
from kto_bench.feedback.types import Feedback

FILES: dict[Version, PublishedFile] = {
    1: PublishedFile("tatsu-lab/alpaca_eval", "alpaca_eval.json", "evaluation.prompts.path"),
    2: PublishedFile("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json", "evaluation.prompts.path"),
}
COUNT = 805
INSTRUCTIONS = "c5770d532bf3f697768ed9a57a05d8b58b2617321ca65070620f059676e7c99a"
"""``digest`` of the instructions, in the order in which their difficulties are published."""
REFERENCES: dict[Version, str] = {
    1: "267058bee182398ce89c443428ffa257547966ed2c320145c161dea8053a2691",
    2: "bad88f78813905feaf410970e7b78bb3a641bd256c48bb12e01174c2eb464d25",
}
"""``digest`` of the reference outputs in the published annotations. Version 1's are not the outputs that the repository
of alpaca_eval publishes for text_davinci_003, of which 785 are others, and shorter."""


class AlpacaEvalPrompts(QuestionSet):
    """The instructions of AlpacaEval, compared with the outputs of text_davinci_003 (1) or gpt4_1106_preview (2).

    ``path`` is a local copy of the reference outputs (the hub's file, one of alpaca_eval's ``model_outputs.json``, or
    published annotations, whose baseline is taken); null: the hub's file. ``gamed_path`` is one of ``df_gamed.csv``,
    which the leaderboards' length control needs.
    """

    title: ClassVar[str] = "AlpacaEval"

    name: str = "alpaca_eval"
    version: Version = 2
    path: Path | None = None
    limit: int | None = Field(None, ge=1, description="null: all 805")
    length_control: LengthControl | None = Field("length_controlled_v1", description="null: raw win rates only")
    gamed_path: Path | None = None

    def identity(self) -> dict[str, Any]:
        """What is asked and compared with: the content of the file, and the limit."""
        content = FILES[self.version].digest(self.path)
        return {"set": "alpaca_eval", "content": content, "limit": self.limit}

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        """The instructions in their published order, called by their place in it; ``heldout`` is not used."""
        prompts = [self._prompt(place, row) for place, row in enumerate(self._rows())]
        return unique(prompts[: self.limit], self._refused)

    def check_files(self, judged: bool) -> None:
        """Also, where lengths are controlled for, that the difficulties are known and belong to these questions."""
        super().check_files(judged)
        if judged and self.length_control == "length_controlled_v1":
            known = set(length_control.gamed_baselines(self.gamed_path)["index"])
            if missing := sorted(set(range(COUNT)) - known):
                raise ConfigError(
                    f"{length_control.GAMED.field}: the difficulties of {len(missing)} of {COUNT} questions are "
                    f"missing, for example of {missing[:3]}; give a copy of {length_control.GAMED.filename}"
                )
            if digest([row["instruction"] for row in self._rows()]) != INSTRUCTIONS:
                raise ConfigError(self._other_instructions())
        if judged and self.length_control == "length_controlled_minimal" and (self.limit or COUNT) < FOLDS:
            raise ConfigError(
                f"evaluation.prompts.limit: {self.limit} questions are too few to control for length, whose penalty is "
                f"chosen by {FOLDS}-fold cross-validation; ask {FOLDS} at least, or choose "
                "evaluation.prompts.length_control=null"
            )

    def statistics_identity(self) -> dict[str, Any]:
        """How win rates are counted, and the content of the file of gamed baselines."""
        needs_file = self.length_control == "length_controlled_v1"
        return {
            "set": "alpaca_eval",
            "version": self.version,
            "length_control": self.length_control,
            "gamed": length_control.GAMED.digest(self.gamed_path) if needs_file else None,
        }

    def statistics(self, completions: Sequence[Row], judgements: Sequence[Row], judge: Judge) -> dict[str, Any]:
        """Raw and length-controlled win rate, the published rows, and why ours may not be compared with them.

        Raises EvaluationError where judgements and completions are not of the same prompts in the same order.
        """
        frame = frame_of(completions, judgements)
        notes = [*self._differences(completions), *self._differences_of(judge)]
        if self.length_control == "length_controlled_v1" and self._is_another_set(completions):
            raise EvaluationError(self._other_instructions())
        found = win_rates(frame, self.length_control, self.gamed_path)
        title = f"{self.title} {self.version}"
        return record_of(title, found.pop("values"), 100, published=published.shown(self.version), notes=notes, **found)

    def _differences(self, completions: Sequence[Row]) -> list[str]:
        """What of these questions is not as it is behind the leaderboard."""
        notes = cut_note(completions)
        if len(completions) < COUNT:
            notes.append(f"{len(completions)} of {COUNT} questions")
        references = {place: output for place, (_, output) in enumerate(map(_texts_of, self._rows()))}
        references |= {place_of(row): row["reference"] for row in completions}
        if digest(list(references.values())) != REFERENCES[self.version]:
            notes.append(f"other reference outputs than the leaderboard's {published.BASELINES[self.version]}")
        if self.length_control == "length_controlled_minimal":
            notes.append("length control without difficulties and gamed baselines")
        return notes

    def _differences_of(self, judge: Judge) -> list[str]:
        official = published.ANNOTATORS[self.version]
        wording, model = getattr(judge, "wording", None), getattr(judge, "model", None)
        notes = []
        if not isinstance(wording, AlpacaEvalWording) or wording.annotator != official:
            notes.append(f"judge {judge.name!r} does not ask as {official} does")
        expected = settings_of(official)["completions_kwargs"]["model_name"]
        if model != expected:
            notes.append(f"the judge is not {expected}")
        return notes

    def _is_another_set(self, completions: Sequence[Row]) -> bool:
        """Whether the file holds other instructions, or the same ones in another order."""
        texts = [row["instruction"] for row in self._rows()]
        asked = {place_of(row): row["prompt"][0]["content"] for row in completions}
        return digest(texts) != INSTRUCTIONS or any(texts[place] != text for place, text in asked.items())

    def _prompt(self, place: int, row: Row) -> EvaluationPrompt:
        instruction, output = _texts_of(row)
        if not isinstance(instruction, str) or not isinstance(output, str):
            raise self._refused(f"question {place + 1} lacks an instruction or an output (or output_1)")
        return EvaluationPrompt(f"alpaca_eval-{place:03d}", ({"role": "user", "content": instruction},), output)

    def _rows(self) -> list[Row]:
        return FILES[self.version].records(self.path)

    def _other_instructions(self) -> str:
        return (
            f"{FILES[self.version].field}: these are not AlpacaEval's instructions in their published order, so their "
            "difficulties are not known; choose evaluation.prompts.length_control=length_controlled_minimal, or null"
        )

    def _refused(self, why: str) -> ConfigError:
        file = FILES[self.version]
        return ConfigError(
            f"{file.field}: {self.path or file.filename}: {why}; give a copy of the hub's {file.filename}"
        )


def _texts_of(row: Row) -> tuple[Any, Any]:
    """Instruction and output, or the baseline's output of an annotation."""
    return row.get("instruction"), row.get("output", row.get("output_1"))


def place_of(row: Row) -> int:
    """The place of a question in the published order."""
    return int(str(row["prompt_id"]).rpartition("-")[2])


def frame_of(completions: Sequence[Row], judgements: Sequence[Row]) -> pd.DataFrame:
    """The frame for ``win_rates``. Raises EvaluationError where the rows are not of the same prompts in one order."""
    asked, judged = [row["prompt_id"] for row in completions], [row["prompt_id"] for row in judgements]
    if asked != judged:
        differing = next(
            (pair for pair in zip(asked, judged, strict=False) if pair[0] != pair[1]), "the number of rows"
        )
        raise EvaluationError(
            f"AlpacaEval: judgements and completions are not of the same prompts in the same order; they first differ "
            f"in {differing}; judge these completions again"
        )
    return pd.DataFrame(
        {
            "index": [place_of(row) for row in completions],
            "preference": [row["preference"] for row in judgements],
            "length_model": [len(row["completion"]) for row in completions],
            "length_baseline": [len(row["reference"]) for row in completions],
        }
    )


def digest(texts: Sequence[str]) -> str:
    """SHA-256 of texts in their order."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()
