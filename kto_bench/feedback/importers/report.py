"""What the importers share: reading published files, and counting what is not taken over."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kto_bench.feedback.types import FeedbackError


@dataclass
class Report:
    """Rows read, and left out by reason, with the place of the first of each reason."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, place: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, place)

    def lines(self) -> list[str]:
        """The report for people, one line per reason."""
        return [f"left out {count}: {reason} (first: {self.first[reason]})" for reason, count in self.dropped.items()]


def source_files(source: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """``source`` itself, or the files of a folder with one of the suffixes, sorted by name."""
    if source.is_file():
        return [source]
    found = sorted(file for file in source.iterdir() if file.name.endswith(suffixes)) if source.is_dir() else []
    if not found:
        raise FeedbackError(f"{source}: expected a file, or a folder with files named *{' or *'.join(suffixes)}")
    return found


def read_text(file: Path) -> str:
    """The text of a plain or gzip file."""
    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise FeedbackError(f"{file}: cannot be read ({error})") from error


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise FeedbackError(f"{place}: not JSON ({error}); was the download complete?") from error


def json_lines(source: Path) -> Iterator[tuple[str, str, Any]]:
    """(id, place, value) of each line of the *.jsonl and *.jsonl.gz files of ``source``."""
    for file in source_files(source, (".jsonl", ".jsonl.gz")):
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if line.strip():
                yield f"{stem(file)}:{number}", f"{file}:{number}", parse_json(line, f"{file}:{number}")


def stem(file: Path) -> str:
    """A file's name without its format: "a.test" for a.test.jsonl.gz."""
    return file.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".json")


def require(value: Any, fields: dict[str, type], place: str) -> None:
    """Raise FeedbackError unless ``value`` is an object with these fields of these types."""
    for name, type_ in fields.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), type_):
            raise FeedbackError(
                f"{place}: expected an object with {name!r} of type {type_.__name__}; is it the right set?"
            )
