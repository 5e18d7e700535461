"""Rows on their way into memory: which can be used, and why others cannot."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kto_bench.feedback.rows import BadRowError, Format, parse_row
from kto_bench.feedback.types import Feedback, FeedbackError, Row

log = logging.getLogger(__name__)


@dataclass
class Collector:
    """Takes values in the dataset formats of TRL, one after another; the first that can be read decides the format.

    ``strict``: the first value that is no row raises FeedbackError; else such values are counted by reason.
    """

    strict: bool
    rows: list[Row] = field(default_factory=list)
    format: Format | None = None
    places: dict[str, str] = field(default_factory=dict)  # of each id, for the message about a second one
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)

    def parse(self, value: Any, default_id: str, place: str) -> bool:
        """Take ``value``, which was found at ``place``; whether it is a row.

        Raises FeedbackError for an id that was seen before.
        """
        try:
            row, found = parse_row(value, default_id, self.format)
        except BadRowError as bad:
            self.refuse(bad, place)
            return False
        if row.id in self.places:
            raise FeedbackError(f"{place}: the id {row.id!r} is taken by {self.places[row.id]}; ids must be unique")
        self.places[row.id] = place
        self.format = found
        self.rows.append(row)
        return True

    def refuse(self, bad: BadRowError, place: str) -> None:
        """Count what is no row, or raise FeedbackError if ``strict``."""
        if self.strict:
            raise FeedbackError(
                f"{place}: {bad}. Mend the row, or set on_bad_rows: drop to leave out and count such rows"
            ) from bad
        if bad.reason not in self.dropped:
            log.warning("%s: %s; rows like this are left out and counted", place, bad)
        self.drop(bad.reason, place)

    def drop(self, reason: str, place: str) -> None:
        """Count what is left out by rule."""
        self.first_dropped.setdefault(reason, place)
        self.dropped[reason] += 1

    def feedback(self, source: Path | str) -> Feedback:
        """All rows that were taken. Raises FeedbackError where there are none."""
        if self.format is None:
            why = ", ".join(f"{count} × {reason}" for reason, count in self.dropped.items())
            raise FeedbackError(
                f"{source}: no row can be used: " + (f"all were left out ({why})" if why else "it is empty")
            )
        return Feedback(self.format.kind, list(self.rows), dict(self.dropped), self.first_dropped)
