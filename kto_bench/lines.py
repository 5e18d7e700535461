"""Files of JSON lines: one object a line, as they happen; packed once they are whole and shared."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COMPRESSED, PACKED = ".gz", ".xz"
"""How the name of a file ends that is written compressed, being long, and of one that was packed to be shared."""


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write all rows; compressed where the name ends in COMPRESSED, as bytes that depend on the rows alone."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == COMPRESSED:
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

    Where ``path`` is not there, but has been packed (``pack``), the rows are read from what it was packed into. A last
    line that does not parse is what a killed process leaves, and is left out. Raises ValueError naming file and line
    for any other, and naming the file where it cannot be unpacked.
    """
    try:
        content = read_content(path)
    except FileNotFoundError:
        return []
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


def read_content(path: Path) -> bytes:
    """What a file holds, or what it was written into or packed into under a longer name; decompressed.

    Raises FileNotFoundError where none is there, and ValueError naming the file where it is damaged.
    """
    longer = path.with_name(f"{path.name}{COMPRESSED}")
    source = next((one for one in (path, longer, packed_name(path)) if one.is_file()), path)
    content = source.read_bytes()
    try:
        match source.suffix:
            case ".gz":
                return gzip.decompress(content)
            case ".xz":
                return lzma.decompress(content)
            case _:
                return content
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # no archive, or one that is not whole
        raise ValueError(f"{source}: damaged ({error})") from error


def packed_name(path: Path) -> Path:
    """What a file is called once it is packed."""
    return path.with_name(f"{path.name.removesuffix(COMPRESSED)}{PACKED}")


def pack(path: Path, into: Path) -> Path:
    """Write the file, packed, into the folder ``into``: same content, same bytes, whenever it is done."""
    packed = packed_name(into / path.name)
    packed.write_bytes(lzma.compress(read_content(path), preset=lzma.PRESET_EXTREME | lzma.PRESET_DEFAULT))
    return packed
