"""Reading files of JSON lines in the dataset formats of TRL."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kto_bench.feedback.collector import Collector
from kto_bench.feedback.rows import BadRowError
from kto_bench.feedback.types import FeedbackError

SUFFIXES = (".jsonl", ".jsonl.gz")
_GZIP = b"\x1f\x8b"
MAX_ROW_BYTES = 16 * 2**20
"""A longer row is a file without line ends, or something else than feedback: no model reads that much."""


def read_jsonl(files: Sequence[Path], collector: Collector, limit: int | None = None) -> None:
    """Give the rows of ``files`` to ``collector``, until it has ``limit`` of them.

    Lines end at "\\n" only; a blank line holds no row. Raises FeedbackError naming the file, the line and the reason.
    """
    for file in files:
        for _ in _rows_of(file, collector):
            if limit is not None and len(collector.rows) >= limit:
                return


def _rows_of(file: Path, collector: Collector) -> Iterator[None]:
    """Yields after every row that ``collector`` took."""
    stem = file.name.removesuffix(".gz").removesuffix(".jsonl")
    number = 0
    try:
        for number, line in enumerate(lines(file), start=1):
            if _take(line, f"{stem}:{number}", f"{file}:{number}", collector):
                yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        collector.refuse(
            BadRowError("damaged gzip file: the rows after here are lost", str(error)), f"{file}:{number + 1}"
        )
    except OSError as error:
        raise FeedbackError(f"{file}: cannot be read ({error})") from error


def _take(line: bytes, default_id: str, place: str, collector: Collector) -> bool:
    if not line.strip():
        return False
    try:
        value = parse_json(line)
    except BadRowError as bad:
        collector.refuse(bad, place)
        return False
    return collector.parse(value, default_id, place)


def lines(file: Path) -> Iterator[bytes]:
    """The lines of a plain or gzip file (told by its first bytes), split on "\\n" only, without a byte-order mark.

    Of a line that is longer than MAX_ROW_BYTES only the beginning is read, one byte more than that.
    """
    with file.open("rb") as plain:
        is_gzip = plain.read(2) == _GZIP
        plain.seek(0)
        stream = gzip.GzipFile(fileobj=plain) if is_gzip else plain
        number = 0
        while line := stream.readline(MAX_ROW_BYTES + 1):
            yield line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            number += 1
            while len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
                line = stream.readline(MAX_ROW_BYTES + 1) or b"\n"


def parse_json(line: bytes) -> Any:
    """The JSON value of a line. Raises BadRowError where it is none, or no UTF-8, or too long."""
    if len(line) > MAX_ROW_BYTES:
        raise BadRowError("longer than 16 MiB", "is the file one JSON object a line?")
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRowError("not UTF-8", f"byte {error.start + 1} of the line") from error
    except (ValueError, RecursionError) as error:
        raise BadRowError("not JSON", str(error)) from error
