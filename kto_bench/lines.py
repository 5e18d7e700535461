"""Files of JSON lines: one object a line, as they happen; compressed once they are whole and shared."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PACKED = ".gz"
"""How the name of a compressed file ends."""


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows; compressed where the name ends in PACKED, as bytes that depend on the rows alone."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == PACKED:
        path.write_bytes(_compressed(text.encode()))
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

    Where ``path`` is not there, but has been packed (``pack``), the rows are read from what it was packed into. A last
    line that does not parse is what a killed process leaves, and is left out. Raises ValueError naming file and line
    for any other, and naming the file where it cannot be unpacked.
    """
    source = path if path.is_file() else packed_name(path)
    if not source.is_file():
        return []
    content = source.read_bytes()
    if source.suffix == PACKED:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:  # what gzip raises of a file that is no archive, or is not whole
            raise ValueError(f"{source}: damaged ({error})") from error
    lines = content.split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if any(later.strip() for later in lines[number:]):
                    raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    return rows


def packed_name(path: Path) -> Path:
    """What a file is called once it is packed."""
    return path.with_name(f"{path.name}{PACKED}")


def pack(path: Path, into: Path) -> Path:
    """Write the file, compressed, into the folder ``into``: same content, same bytes, whenever it is done."""
    packed = packed_name(into / path.name)
    packed.write_bytes(_compressed(path.read_bytes()))
    return packed


def _compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
