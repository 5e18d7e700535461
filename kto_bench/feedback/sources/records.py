"""Published sets as records, one JSON object each: from files, from a ``save_to_disk`` folder, or from the hub."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_bench.feedback.jsonl import lines, parse_json
from kto_bench.feedback.rows import BadRowError
from kto_bench.feedback.sources.content import name_of
from kto_bench.feedback.types import FeedbackError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".json", ".json.gz", ".parquet")
Drop = Callable[[str, str], None]
"""(reason, place): count a record that is left out."""
SPLITS = "dataset_dict.json"
"""It is in a folder of ``datasets.save_to_disk`` with several splits."""
SAVED = ("state.json", SPLITS)
"""One of these is in every folder of ``datasets.save_to_disk``."""


@dataclass(frozen=True, slots=True)
class Record:
    """A JSON object, what it is called, and where it was found."""

    id: str
    place: str
    value: Any


def files_in(path: Path, split: str | None = None) -> list[Path]:
    """The files of a set: ``path`` itself, or those of a folder, in the order of their names.

    Where some in it or in the folders below are called after ``split`` ("data/train-00000-of-00002.parquet"), these;
    else those in the folder itself. Of a ``save_to_disk`` folder, everything. Raises FeedbackError where nothing is.
    """
    return files_of_split(path, split) or _files_of_any(path)


def files_of_split(path: Path, split: str | None) -> list[Path]:
    """The files in the folder ``path`` and below that are called after ``split``: its name, and a number perhaps."""
    path = path.expanduser()
    if split is None or not path.is_dir() or is_saved(path):
        return []
    called = re.compile(rf"{re.escape(split)}([-_]\d[^.]*)?\.")  # "train_prefs-00000" is another split than "train"
    return [file for file in _below(path) if called.match(file.name)]


def _files_of_any(path: Path) -> list[Path]:
    path = path.expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FeedbackError(f"feedback.path: {path} does not exist (looked in {Path.cwd()})")
    if is_saved(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    found = [file for file in _below(path) if file.parent == path]
    if not found:
        raise FeedbackError(f"feedback.path: the folder {path} has no file named *{', *'.join(SUFFIXES)}")
    return found


def _below(path: Path) -> list[Path]:
    return [file for file in sorted(path.rglob("*")) if file.name.endswith(SUFFIXES) and file.is_file()]


def is_saved(path: Path) -> bool:
    """Whether ``datasets.save_to_disk`` wrote the folder."""
    return any((path / name).is_file() for name in SAVED)


def read_path(path: Path, split: str) -> Iterator[Record]:
    """The records of a file or a folder, in order."""
    path = path.expanduser()
    return _read_saved(path, split) if path.is_dir() and is_saved(path) else read_files(files_in(path, split), path)


def read_files(files: Sequence[Path], root: Path | None = None) -> Iterator[Record]:
    """The records of files (in the folder ``root``), in order, called "FILE:NUMBER".

    Raises FeedbackError for what cannot be read.
    """
    for file in files:
        called = _stem(name_of(file, root))
        try:
            if file.name.endswith(".parquet"):
                yield from _parquet(file, called)
            elif file.name.endswith((".json", ".json.gz")):
                yield from _json(file, called)
            else:
                yield from _json_lines(file, called)
        except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, FeedbackError):
                raise
            raise FeedbackError(f"{file}: cannot be read ({error}); was the download complete?") from error


def everything_below(path: Path) -> list[Path]:
    """The files of known formats and the ``save_to_disk`` folders in ``path`` and in the folders below it."""
    path = path.expanduser()
    if not path.is_dir() or is_saved(path):
        return [path] if path.exists() else []
    inner = sorted(path.iterdir())
    return [
        found
        for child in inner
        if child.is_dir() or child.name.endswith(SUFFIXES)
        for found in (everything_below(child) if child.is_dir() else [child])
    ]


def read_all(path: Path) -> Iterator[Record]:
    """The records of a file, or of every split of a ``save_to_disk`` folder."""
    if not path.is_dir():
        yield from read_files([path])
        return
    import datasets

    table = datasets.load_from_disk(str(path))
    for split in table if isinstance(table, datasets.DatasetDict) else [""]:
        yield from _read_saved(path, split)


def read_hub(load: dict[str, Any], called: str) -> Iterator[Record]:
    """The records of ``datasets.load_dataset(**load)``; ``called`` is what messages call the set.

    Raises FeedbackError where it cannot be loaded, for whatever reason.
    """
    import datasets

    try:
        table = datasets.load_dataset(**load)
    except Exception as error:  # the hub, the cache and the builders raise many kinds
        raise FeedbackError(
            f"feedback: cannot load {called} from the hub ({type(error).__name__}: {error}); without network, download "
            "it elsewhere and give feedback.path"
        ) from error
    for number, value in enumerate(table, start=1):
        yield Record(f"{load['split']}:{number}", f"{called}, row {number}", value)


def _read_saved(path: Path, split: str) -> Iterator[Record]:
    import datasets

    table = datasets.load_from_disk(str(path))
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise FeedbackError(f"{path}: it has no split {split!r}; choose one of {', '.join(table)}")
        table = table[split]
    for number, value in enumerate(table, start=1):  # called after the split: a folder may be moved
        yield Record(f"{split or 'row'}:{number}", f"{path}, row {number}", value)


def _parquet(file: Path, called: str) -> Iterator[Record]:
    import pyarrow.parquet

    number = 0
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1000):  # so that memory stays flat
        for value in batch.to_pylist():
            number += 1
            yield Record(f"{called}:{number}", f"{file}, row {number}", value)


def _json(file: Path, called: str) -> Iterator[Record]:
    data = file.read_bytes()
    try:
        values = json.loads(gzip.decompress(data) if file.name.endswith(".gz") else data)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise
        yield from _json_lines(file, called)  # what SHP's files and many others hold
        return
    if isinstance(values, dict):  # one list under a name of its own, beside descriptions
        values = next((inner for inner in values.values() if isinstance(inner, list)), [values])
    for number, value in enumerate(values, start=1):
        yield Record(f"{called}:{number}", f"{file}, entry {number}", value)


def _json_lines(file: Path, called: str) -> Iterator[Record]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            try:
                value = parse_json(line)
            except BadRowError as bad:
                raise FeedbackError(f"{file}:{number}: {bad}; was the download complete?") from bad
            yield Record(f"{called}:{number}", f"{file}:{number}", value)


def _lines(file: Path) -> Iterator[bytes]:
    if not file.name.endswith(".xz"):
        yield from lines(file)
        return
    with lzma.open(file) as opened:
        yield from opened


def _stem(name: str) -> str:
    """A file's name without its format: "a.test" for a.test.jsonl.gz."""
    for suffix in (".gz", ".xz", ".jsonl", ".json", ".parquet"):
        name = name.removesuffix(suffix)
    return name
