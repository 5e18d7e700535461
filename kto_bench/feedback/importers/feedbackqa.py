"""FeedbackQA (Li et al. 2022): ratings of single answers to questions, as binary feedback without pairs.

SOURCE is one of the published *.feedback_*.json files, plain or gzip, or a folder of them. An answer has two or three
ratings; Excellent and Acceptable count for it, Could be Improved and Bad against it. It is desirable if most ratings
are for it and undesirable if most are against it: one row per answer, since one row per rating would put the same
completion on both sides. Ties are left out and counted, and so are empty answers and an answer that a question has had
already. The completion is the text of the answer, without the headings of the page that it stands on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kto_bench.feedback.importers.report import Report, parse_json, read_text, require, source_files, stem
from kto_bench.feedback.types import FeedbackError

GOOD = ("Excellent", "Acceptable")
BAD = ("Could be Improved", "Bad")


def convert(source: Path, report: Report) -> Iterator[dict[str, Any]]:
    """Rows with the question as prompt, and the answer's ratings under "ratings"."""
    seen: set[tuple[str, str]] = set()
    for file in source_files(source, (".json", ".json.gz")):
        values = parse_json(read_text(file), str(file))
        if not isinstance(values, list):
            raise FeedbackError(f"{file}: expected a list of answers; is it the right set?")
        for number, value in enumerate(values, start=1):
            place = f"{file}, answer {number}"
            question, answer, ratings = _fields(value, place)
            report.read += 1
            votes = sum(1 if rating in GOOD else -1 for rating in ratings)
            if not question or not answer:
                report.drop("empty question or answer", place)
            elif (question, answer) in seen:
                report.drop("the question has had this answer already", place)
            elif votes == 0:
                report.drop("as many ratings for the answer as against it", place)
            else:
                seen.add((question, answer))
                yield {
                    "id": f"{stem(file)}:{number}",
                    "prompt": question,
                    "completion": answer,
                    "label": votes > 0,
                    "ratings": ratings,
                }


def _fields(value: Any, place: str) -> tuple[str, str, list[str]]:
    require(value, {"question": str, "passage": dict, "rating": list}, place)
    require(value["passage"], {"reference": dict}, f"{place}, passage")
    require(value["passage"]["reference"], {"section_content": str}, f"{place}, passage.reference")
    for rating in value["rating"]:
        if rating not in GOOD + BAD:
            raise FeedbackError(f"{place}: unknown rating {rating!r}; known: {', '.join(GOOD + BAD)}")
    return value["question"].strip(), value["passage"]["reference"]["section_content"].strip(), value["rating"]
