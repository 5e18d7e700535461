"""UltraFeedback binarized (Cui et al. 2023; https://hf.co/datasets/HuggingFaceH4/ultrafeedback_binarized)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from kto_bench.feedback.scores import Scored, ScoreRule, labels
from kto_bench.feedback.sources.published import PublishedSet, require
from kto_bench.feedback.sources.records import Drop, Record
from kto_bench.feedback.types import FeedbackKind

NUMBER = (int, float)


class UltraFeedback(PublishedSet):
    """GPT-4's scores of completions, published as pairs: the best of four, and one of the others.

    ``read_as`` "paired" takes the pairs as they are, equal scores and all, or leaves out those whose scores differ by
    less than ``scores.margin``; "binary" labels each completion by its score and ``scores``. Rows whose conversations
    are empty, equal, or not about the same prompt are left out and counted.
    """

    name: str = "ultrafeedback"
    hub: str = "HuggingFaceH4/ultrafeedback_binarized"
    split: str = "train_prefs"
    read_as: Literal["paired", "binary"] = "paired"
    scores: ScoreRule = ScoreRule()
    rows_are: ClassVar = "paired"

    def kind(self) -> FeedbackKind:
        """``read_as``."""
        return self.read_as

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each pair, or one for each completion."""
        for record in records:
            value = record.value
            require(value, {"chosen": list, "rejected": list}, record.place)
            require(value, {"score_chosen": NUMBER, "score_rejected": NUMBER}, record.place)
            if len(value["chosen"]) < 2 or len(value["rejected"]) < 2 or value["chosen"][:-1] != value["rejected"][:-1]:
                drop("the conversations are not about the same prompt", record.place)
                continue
            *prompt, last = value["chosen"]
            pair = [
                Scored(f"{record.id}/{side}", record.place, tuple(prompt), message["content"], value[f"score_{side}"])
                for side, message in (("chosen", last), ("rejected", value["rejected"][-1]))
            ]
            if pair[0].completion == pair[1].completion:
                drop("chosen equals rejected", record.place)
            elif self.read_as == "binary":
                yield from binary_rows(pair, self.scores, drop)
            elif abs(pair[0].score - pair[1].score) < self.scores.margin:
                drop("the scores are too near to each other", record.place)
            else:
                row = {"prompt": prompt, "chosen": pair[0].completion, "rejected": pair[1].completion}
                yield Record(record.id, record.place, row)


def binary_rows(scored: list[Scored], rule: ScoreRule, drop: Drop) -> Iterator[Record]:
    """The completions with the labels that their scores give them."""
    for row, label in zip(scored, labels(scored, rule), strict=True):
        if label is None:
            drop("the score is too near to the threshold", row.place)
        else:
            yield Record(row.id, row.place, {"prompt": list(row.prompt), "completion": row.completion, "label": label})
