"""Feedback of your own: files of JSON lines in the dataset formats of TRL."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kto_bench.feedback.rows import BadRowError, Format, parse_row
from kto_bench.feedback.types import Feedback, FeedbackError, FeedbackKind, FeedbackSource, Row

log = logging.getLogger(__name__)
SUFFIXES = (".jsonl", ".jsonl.gz")
_GZIP = b"\x1f\x8b"


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
        digests = [[file.name, _sha256(file)] for file in self.files()]
        return {**super().identity(), "path": digests}

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
        reading = _Reading(strict=self.on_bad_rows == "error")
        for file in self.files():
            for row in reading.rows_of(file):
                reading.rows.append(row)
                if limit is not None and len(reading.rows) >= limit:
                    return reading.feedback(self.path)
        return reading.feedback(self.path)


@dataclass
class _Reading:
    """What is known after the lines that have been read."""

    strict: bool
    rows: list[Row] = field(default_factory=list)
    format: Format | None = None
    places: dict[str, str] = field(default_factory=dict)  # of each id, for the message about a second one
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)

    def rows_of(self, file: Path) -> Iterator[Row]:
        stem = file.name.removesuffix(".gz").removesuffix(".jsonl")
        number = 0
        try:
            for number, line in enumerate(_lines(file), start=1):
                row = self._row(line, f"{stem}:{number}", f"{file}:{number}")
                if row is not None:
                    yield row
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self._refuse(
                BadRowError("damaged gzip file: the rows after here are lost", str(error)), f"{file}:{number + 1}"
            )
        except OSError as error:
            raise FeedbackError(f"{file}: cannot be read ({error})") from error

    def _row(self, line: bytes, default_id: str, place: str) -> Row | None:
        if not line.strip():
            return None
        try:
            row, found = parse_row(_json(line), default_id, self.format)
        except BadRowError as bad:
            self._refuse(bad, place)
            return None
        if row.id in self.places:
            raise FeedbackError(f"{place}: the id {row.id!r} is taken by {self.places[row.id]}; ids must be unique")
        self.places[row.id] = place
        self.format = found
        return row

    def _refuse(self, bad: BadRowError, place: str) -> None:
        if self.strict:
            raise FeedbackError(
                f"{place}: {bad}. Mend the row, or set on_bad_rows: drop to leave out and count such rows"
            ) from bad
        if bad.reason not in self.dropped:
            self.first_dropped[bad.reason] = place
            log.warning("%s: %s; rows like this are left out and counted", place, bad)
        self.dropped[bad.reason] += 1

    def feedback(self, path: Path) -> Feedback:
        if self.format is None:
            why = ", ".join(f"{count} × {reason}" for reason, count in self.dropped.items())
            raise FeedbackError(
                f"{path}: no row can be used: " + (f"all were left out ({why})" if why else "it is empty")
            )
        return Feedback(self.format.kind, list(self.rows), dict(self.dropped), self.first_dropped)


def _lines(file: Path) -> Iterator[bytes]:
    """The lines of a plain or gzip file (told by its first bytes), split on "\\n" only, without a byte-order mark."""
    with file.open("rb") as plain:
        is_gzip = plain.read(2) == _GZIP
        plain.seek(0)
        for number, line in enumerate(gzip.GzipFile(fileobj=plain) if is_gzip else plain):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRowError("not UTF-8", f"byte {error.start + 1} of the line") from error
    except (ValueError, RecursionError) as error:
        raise BadRowError("not JSON", str(error)) from error


def _sha256(file: Path) -> str:
    """Of the content, which a process reads once while size and time stay: a sweep describes many cells."""
    try:
        status = file.stat()
    except OSError as error:
        raise FeedbackError(f"{file}: cannot be read ({error})") from error
    return _digest(file.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    return hashlib.sha256(_bytes(file)).hexdigest()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise FeedbackError(f"{file}: cannot be read ({error})") from error
