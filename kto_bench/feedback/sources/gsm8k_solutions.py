"""GSM8K example model solutions (Cobbe et al. 2021, https://github.com/openai/grade-school-math): right or wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import model_validator

from kto_bench.feedback.sources.published import PublishedSet, require, user
from kto_bench.feedback.sources.records import Drop, Record

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


class GSM8KSolutions(PublishedSet):
    """Four models' solutions to each question, verifiable binary feedback: desirable means that the answer is right.

    The file is published beside the code of the paper, not on the hub: ``hub`` is the repository, and ``revision`` a
    branch or commit of it. Empty solutions are left out and counted. The questions are those of GSM8K's test split:
    after training on them, GSM8K is no measure of anything.
    """

    rows_are: ClassVar = "binary"
    name: str = "gsm8k_solutions"
    hub: str = "openai/grade-school-math"
    revision: str = "master"

    @model_validator(mode="after")
    def _has_no_splits(self) -> GSM8KSolutions:
        if self.heldout_split is not None:
            raise ValueError(
                f"heldout_split: {self.heldout_split!r}: the set is one file without splits; choose null, and a "
                "heldout_fraction above 0"
            )
        return self

    def hub_arguments(self, split: str) -> dict[str, Any]:
        """The one file of the repository."""
        file = "grade_school_math/data/example_model_solutions.jsonl"
        url = f"https://raw.githubusercontent.com/{self.hub}/{self.revision}/{file}"
        return {"path": "json", "data_files": {split: url}, "split": split}

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """A row for each solution, called after its model."""
        for record in records:
            value = record.value
            require(value, {"question": str, **dict.fromkeys(MODELS, dict)}, record.place)
            for model in MODELS:
                require(value[model], {"is_correct": bool, "solution": str}, f"{record.place}, {model}")
                solution = value[model]["solution"]
                if not solution.strip():
                    drop("empty completion", record.place)
                    continue
                row = {"prompt": user(value["question"]), "completion": solution, "label": value[model]["is_correct"]}
                yield Record(f"{record.id}/{model}", record.place, row)
