"""Feedback of your own: files of JSON lines in the dataset formats of TRL."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kto_bench.feedback.collector import Collector
from kto_bench.feedback.jsonl import SUFFIXES, read_jsonl
from kto_bench.feedback.sources.content import digests_of
from kto_bench.feedback.types import Feedback, FeedbackError, FeedbackKind, FeedbackSource

log = logging.getLogger(__name__)


class JsonlFeedback(FeedbackSource):
    """A file, or a folder of ``*.jsonl`` and ``*.jsonl.gz`` files in the order of their names.

    The first row that can be read decides the format, and all rows must have it. Lines end at "\\n" only; a blank
    line holds no row. ``on_bad_rows``: "error" stops at the first row that cannot be used; "drop" leaves such rows out,
    counts them by reason in ``Feedback.dropped`` and keeps where the first of each reason is. ``limit`` keeps that many
    rows from the front. Raises FeedbackError naming the file, the line and the reason.
    """

    name: str = "jsonl"
    path: Path
    on_bad_rows: Literal["error", "drop"] = "error"
    limit: int | None = Field(default=None, ge=1)

    def kind(self) -> FeedbackKind:
        """The kind of the first row; reads no further."""
        return self._read(limit=1).kind

    def load(self) -> Feedback:
        """All rows in the order of the files and lines; without an id of its own, a row is called "file:line"."""
        feedback = self._read(self.limit)
        total = sum(feedback.dropped.values())
        if total:
            log.warning("%s: %d rows kept, %d left out", self.path, len(feedback), total)
        return feedback

    def identity(self) -> dict[str, Any]:
        """The settings, and name and SHA-256 of each file in place of the path: rows are called after their file, but
        moving the files changes nothing."""
        return {**super().identity(), "path": digests_of(self.files())}

    def origin(self) -> dict[str, Any]:
        """The files that were read, and their content."""
        return {"files": digests_of(self.files())}

    def files(self) -> list[Path]:
        """The files that are read, in order. Raises FeedbackError where there are none."""
        path = self.path.expanduser()
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
            if not found:
                raise FeedbackError(f"feedback.path: the folder {path} has no file named *.jsonl or *.jsonl.gz")
            return found
        if not path.is_file():
            raise FeedbackError(
                f"feedback.path: {path} does not exist (looked in {Path.cwd()}): name a file of JSON lines, plain or "
                "gzip, or a folder of *.jsonl and *.jsonl.gz files"
            )
        return [path]

    def _read(self, limit: int | None) -> Feedback:
        collector = Collector(strict=self.on_bad_rows == "error")
        read_jsonl(self.files(), collector, limit)
        return collector.feedback(self.path)
