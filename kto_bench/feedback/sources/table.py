"""Any set in a dataset format of TRL: on the hub, or as parquet, JSON or ``save_to_disk`` files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from kto_bench.feedback.collector import Collector
from kto_bench.feedback.rows import BadRowError, parse_row
from kto_bench.feedback.scores import Scored, ScoreRule, labels
from kto_bench.feedback.sources.published import PublishedSet
from kto_bench.feedback.sources.records import Drop, Record
from kto_bench.feedback.types import FeedbackError, FeedbackKind

TrlField = Literal["prompt", "completion", "label", "chosen", "rejected", "score"]


class TableFeedback(PublishedSet):
    """Rows with TRL's fields, whatever their columns are called; or with a score, which becomes a label.

    ``columns`` names the column of each field that is called otherwise, for example {prompt: question}. Where there is
    a field ``score`` (by its own name or by ``columns``) and ``scores`` is given, the label is made from it. ``kind``
    reads the first row unless ``rows`` says what they are.
    """

    name: str = "table"
    hub: str = ""
    on_bad_rows: Literal["error", "drop"] = Field("error", description="drop: leave such rows out, and count them")
    columns: dict[TrlField, str] | None = Field(None, description="the column of each field that is called otherwise")
    scores: ScoreRule | None = Field(None, description="how a score becomes a label; null: there are labels")
    rows: FeedbackKind | None = Field(None, description="what the rows are; null: look at the first one")
    rows_are: ClassVar = "paired"

    @model_validator(mode="after")
    def _somewhere(self) -> TableFeedback:
        if not self.hub and self.path is None:
            raise ValueError("hub and path are both empty; give a hub id, or a file or folder")
        return self

    @property
    def strict(self) -> bool:
        """``on_bad_rows``."""
        return self.on_bad_rows == "error"

    def kind(self) -> FeedbackKind:
        """``rows``, or what the first row is."""
        if self.rows is not None:
            return self.rows
        if self.scores is not None:
            return "binary"
        return self._first(self.split)

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """The rows with TRL's names."""
        renamed = (Record(record.id, record.place, self._renamed(record)) for record in records)
        yield from renamed if self.scores is None else self._labelled(renamed, self.scores, drop)

    def _load(self, split: str, limit: int | None) -> Any:
        feedback = super()._load(split, limit)
        if self.rows is not None and feedback.kind != self.rows:
            raise FeedbackError(
                f"feedback.rows: {self.rows!r} is not what {self.path or self.hub} holds, which is {feedback.kind}"
            )
        return feedback

    def _first(self, split: str) -> FeedbackKind:
        collector = Collector(strict=self.strict)
        for record in self.convert(self.records(split), lambda reason, place: None):
            if collector.parse(record.value, record.id, record.place):
                break
        return collector.feedback(self.path or self.hub).kind

    def _renamed(self, record: Record) -> Any:
        if not isinstance(record.value, dict):
            return record.value
        columns = self.columns or {}
        missing = [column for column in columns.values() if column not in record.value]
        if missing:
            raise FeedbackError(
                f"{record.place}: there is no column {missing[0]!r} (feedback.columns); there are: "
                f"{', '.join(record.value)}"
            )
        taken = set(columns.values())
        value = {name: inner for name, inner in record.value.items() if name not in taken}
        return value | {field: record.value[column] for field, column in columns.items()}

    def _labelled(self, records: Iterator[Record], rule: ScoreRule, drop: Drop) -> Iterator[Record]:
        scored, kept = [], []
        for record in records:
            score = record.value.get("score") if isinstance(record.value, dict) else None
            if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
                if self.strict:
                    raise FeedbackError(
                        f"{record.place}: the score is {score!r} and not a number (feedback.scores). Mend the row, "
                        "name the column of the scores in feedback.columns, or set on_bad_rows: drop"
                    )
                drop("the score is not a number", record.place)
                continue
            value = {name: inner for name, inner in record.value.items() if name not in ("chosen", "rejected")}
            labelled = Record(record.id, record.place, {**value, "label": True})
            try:
                row, _ = parse_row(labelled.value, record.id)
            except BadRowError:
                yield labelled  # to be refused for its reason
                continue
            scored.append(Scored(record.id, record.place, row.prompt, "", score))
            kept.append(labelled)
        for record, label in zip(kept, labels(scored, rule), strict=True):
            if label is None:
                drop("the score is too near to the threshold", record.place)
            else:
                yield Record(record.id, record.place, {**record.value, "label": label})
