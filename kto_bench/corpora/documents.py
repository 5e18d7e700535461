"""Documents of plain text files: UTF-8, plain or compressed."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from kto_bench.component import ConfigError

SUFFIXES = (".txt", ".txt.gz", ".txt.xz")
"""How the names of text files in a folder end."""
MOST_CHARACTERS = 32_768
"""In a document; a longer text, such as a novel, is cut into several, to be read and mixed piece by piece."""


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files of a corpus in their order: ``paths`` themselves, and of a folder its text files by name.

    Raises ConfigError for what is not there, and for a folder without text.
    """
    if not paths:
        raise ConfigError("model.corpus.paths: no file is given; give text files, or a folder of them")
    found: list[Path] = []
    for path in (path.expanduser() for path in paths):
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.is_file())
            if not inside:
                raise ConfigError(f"model.corpus.paths: the folder {path} has no file named *{', *'.join(SUFFIXES)}")
            found += inside
        else:
            raise ConfigError(
                f"model.corpus.paths: {path} does not exist (looked in {Path.cwd()}); give text files "
                f"(*{', *'.join(SUFFIXES)}), or a folder of them"
            )
    return found


def documents(files: Sequence[Path], blank_lines: int | None) -> Iterator[str]:
    """The documents of all files, each read line by line, one document in memory at a time.

    A document ends with its file, and where ``blank_lines`` lines or more in a row are blank; None: with its file only.
    One of more than ``MOST_CHARACTERS`` is cut at line ends into documents of its own (a longer line, within). White
    space around a document that makes blank lines is left out. Raises ConfigError for a file that cannot be read, is
    not UTF-8, or has no text.
    """
    for file in files:
        empty = True
        for document in _documents(file, blank_lines):
            empty = False
            yield document
        if empty:
            raise ConfigError(f"model.corpus.paths: {file} has no text; leave it out")


def _documents(file: Path, blank_lines: int | None) -> Iterator[str]:
    document, gap, blank = "", "", 0
    for line in _lines(file):
        if not line.strip():
            gap += line
            blank += 1
            continue
        ended = blank_lines is not None and blank >= blank_lines
        if document and (ended or len(document) + len(gap) + len(line) > MOST_CHARACTERS):
            yield document.rstrip("\n")
            document = ""
        document = document + gap + line if document else line
        gap, blank = "", 0
    if document:
        yield document.rstrip("\n")


def _lines(file: Path) -> Iterator[str]:
    number = 0
    try:
        with _open(file) as lines:
            for line in iter(partial(lines.readline, MOST_CHARACTERS), ""):
                number += line.endswith("\n")
                yield line
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"model.corpus.paths: {file} is not UTF-8: {error.reason} (0x{error.object[error.start]:02x}, soon after "
            f"line {number}); convert it, for example with `iconv -f LATIN1 -t UTF-8`"
        ) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ConfigError(f"model.corpus.paths: {file} cannot be read ({error}); was the download complete?") from error


def _open(file: Path) -> TextIO:
    """For reading; a byte order mark is no text."""
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig")
    if file.suffix == ".xz":
        return lzma.open(file, "rt", encoding="utf-8-sig")
    return file.open(encoding="utf-8-sig")
