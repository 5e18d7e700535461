"""Files of JSON lines: one object a line, as they happen."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows; compressed where the name ends in .gz, as bytes that depend on the rows alone."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, encoding="utf-8")


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row."""
    append_lines(path, [row])


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add all rows in one write."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, split on line feeds only; empty if there is no file.

    A last line that does not parse is what a killed process leaves, and is left out. Raises ValueError naming file and
    line for any other.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if any(later.strip() for later in lines[number:]):
                    raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    return rows
