"""FeedbackQA (Li et al. 2022, https://hf.co/datasets/McGill-NLP/feedbackQA): ratings of single answers, no pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from kto_bench.feedback.sources.published import PublishedSet, require, user
from kto_bench.feedback.sources.records import Drop, Record
from kto_bench.feedback.types import FeedbackError

GOOD = ("Excellent", "Acceptable")
BAD = ("Could be Improved", "Bad")


class FeedbackQA(PublishedSet):
    """Answers to questions, naturally binary: desirable if most ratings are for it, undesirable if most are against it.

    An answer has two or three ratings; Excellent and Acceptable count for it, Could be Improved and Bad against it. One
    row per answer, since one row per rating would put the same completion on both sides. Ties are left out and counted,
    and so are empty answers and an answer that a question has had already. The completion is the text of the answer,
    without the headings of the page that it stands on. Splits: train, valid, test.
    """

    rows_are: ClassVar = "binary"
    name: str = "feedbackqa"
    hub: str = "McGill-NLP/feedbackQA"

    def hub_arguments(self, split: str) -> dict[str, Any]:
        """Its JSON files: the set's own loading script is code, which is never run."""
        file = f"hf://datasets/{self.hub}@{self.revision}/data/feedback_{split}.json"
        return {"path": "json", "data_files": {split: file}, "split": split}

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each answer with a majority."""
        seen: set[tuple[str, str]] = set()
        for record in records:
            question, answer, ratings = _fields(record.value, record.place)
            votes = sum(1 if rating in GOOD else -1 for rating in ratings)
            if not question or not answer:
                drop("empty question or answer", record.place)
            elif (question, answer) in seen:
                drop("the question has had this answer already", record.place)
            elif votes == 0:
                drop("as many ratings for the answer as against it", record.place)
            else:
                seen.add((question, answer))
                row = {"prompt": user(question), "completion": answer, "label": votes > 0}
                yield Record(record.id, record.place, row)


def _fields(value: Any, place: str) -> tuple[str, str, list[str]]:
    require(value, {"question": str, "passage": dict, "rating": list}, place)
    require(value["passage"], {"reference": dict}, f"{place}, passage")
    require(value["passage"]["reference"], {"section_content": str}, f"{place}, passage.reference")
    for rating in value["rating"]:
        if rating not in GOOD + BAD:
            raise FeedbackError(f"{place}: unknown rating {rating!r}; known: {', '.join(GOOD + BAD)}")
    return value["question"].strip(), value["passage"]["reference"]["section_content"].strip(), value["rating"]
