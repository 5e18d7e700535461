"""Data sets of lm-eval's tasks from local files instead of the hub: ``evaluation.data_root``.

A task names a data set of the hub, such as ``allenai/ai2_arc`` with the configuration ``ARC-Easy``. Its splits are
looked for in ``data_root/allenai/ai2_arc/ARC-Easy`` and ``data_root/ai2_arc/ARC-Easy``; docs/benchmarks.md has the
whole layout.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError

Row = dict[str, Any]
_FILE = re.compile(r"(?P<split>[^.]+?)(?:-\d{5}-of-\d{5})?\.(?:jsonl|json|parquet)(?:\.gz)?")
_SAVED = ("state.json", "dataset_info.json")  # both lie in a folder that Dataset.save_to_disk wrote
_ABOUT = (*_SAVED, "dataset_dict.json", "dataset_infos.json")
"""What lies beside data and tells about them, here or in a repository of the hub."""


@dataclass(frozen=True)
class Published:
    """A set whose published files differ from its copy on the hub: the folder, and a row of the hub's from theirs."""

    folder: str
    convert: Callable[[Row, int], Row] | None = None


def _boolq(row: Row, index: int) -> Row:
    """SuperGLUE's row of BoolQ from Google's: ``label`` is 1 for yes."""
    return row if "label" in row else {**row, "label": int(row["answer"]), "idx": index}


def _truthfulqa(row: Row, index: int) -> Row:
    """The multiple-choice row from TruthfulQA's answers (Lin et al. 2021, appendix B).

    MC1 has one right choice, the best answer, beside the false ones; MC2 has all true and all false answers.
    """
    row = row.get("en", row)
    if "mc1_targets" in row:
        return row
    best, right, wrong = row["best_answer"], row["correct_answers"], row["incorrect_answers"]
    return {
        "question": row["question"],
        "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
        "mc2_targets": {"choices": [*right, *wrong], "labels": [1] * len(right) + [0] * len(wrong)},
    }


PUBLISHED: dict[tuple[str, str | None], Published] = {
    ("aps/super_glue", "boolq"): Published("boolq", _boolq),
    ("truthfulqa/truthful_qa", "multiple_choice"): Published("truthfulqa", _truthfulqa),
    ("openai/openai_humaneval", None): Published("humaneval"),
}


@dataclass(frozen=True)
class LocalSet:
    """The splits of one data set as files or ``save_to_disk`` folders; ``only`` stands for whichever is scored."""

    folder: Path
    splits: Mapping[str, tuple[Path, ...]]
    only: tuple[Path, ...] = ()
    convert: Callable[[Row, int], Row] | None = None
    name: str | None = None
    """Of its configuration, where it has several."""

    def load(self, names: Iterable[str]) -> Any:
        """A ``datasets.DatasetDict`` of the splits ``names``. Raises ConfigError for files that hold no rows."""
        from datasets import DatasetDict

        return DatasetDict({name: self._split(self.files(name)) for name in names})

    def files(self, name: str) -> tuple[Path, ...]:
        """What holds a split."""
        return self.splits.get(name, self.only)

    def digest(self, names: Iterable[str]) -> str:
        """SHA-256 over the content of the splits ``names``, wherever they lie."""
        digest = hashlib.sha256()
        for name in sorted(set(names)):
            for path in self.files(name):
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    if file.is_file():
                        status = file.stat()
                        content = _content(str(file), status.st_size, status.st_mtime_ns)
                        digest.update(f"{name}\0{file.name}\0{content}\n".encode())
        return digest.hexdigest()

    def _split(self, files: tuple[Path, ...]) -> Any:
        from datasets import Dataset, concatenate_datasets, load_from_disk

        parts = []
        for file in files:
            if file.is_dir():
                parts.append(load_from_disk(str(file)))
            elif ".parquet" in file.name:
                parts.append(Dataset(_parquet(file)))
            else:
                parts.append(Dataset.from_list(read_rows(file)))
        data = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if not len(data):
            raise ConfigError(f"evaluation.data_root: {files[0]} holds no rows; fetch the file again")
        return Dataset.from_list([self.convert(row, i) for i, row in enumerate(data)]) if self.convert else data


def _parquet(file: Path) -> Any:
    from datasets.table import InMemoryTable
    from pyarrow import parquet

    return InMemoryTable(parquet.read_table(file))


def read_rows(file: Path) -> list[Row]:
    """The rows of a JSON or JSON-lines file, plain or gzip: lines, a list, or BBH's mapping with "examples".

    Raises ConfigError naming the file.
    """
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.name.endswith(".gz") else content
        if ".jsonl" in file.name:
            rows: Any = [json.loads(line) for line in content.split(b"\n") if line.strip()]
        else:
            rows = json.loads(content)
            rows = rows.get("examples") if isinstance(rows, dict) else rows
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"evaluation.data_root: {file} cannot be read ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(
            f"evaluation.data_root: {file} is neither a list of objects nor one with a list in 'examples'"
        )
    return rows


@functools.cache
def _content(path: str, size: int, modified: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(root: Path, path: str, name: str | None) -> LocalSet:
    """The local copy of the hub's data set ``path`` in its configuration ``name``.

    Raises ConfigError that says where it was looked for.
    """
    published = PUBLISHED.get((path, name))
    short = path.rpartition("/")[2]
    folders = [root / path, root / short, root / short.lower(), *([root / published.folder] if published else [])]
    looked = []
    for folder in dict.fromkeys(folders):
        if not folder.is_dir():
            looked.append(folder)
            continue
        found = None
        if name is not None:
            found = splits_in(folder / name) or _single(folder, name)
        if found is None and (name is None or published or _has_no_configurations(folder)):
            found = splits_in(folder) or _of_the_only_folder(folder)
        if found is not None:
            splits, only = found
            files = [file for several in [*splits.values(), only] for file in several]
            return LocalSet(files[0].parent, splits, only, published.convert if published else None, name)
        looked.append(folder if name is None else folder / name)
    places = ", ".join(str(folder) for folder in looked)
    called = path if name is None else f"{path} ({name})"
    raise ConfigError(
        f"evaluation.data_root: {root} has no data set {called}: there is none in {places}; put its splits there, as "
        "folders of save_to_disk or as files SPLIT.jsonl, SPLIT.json or SPLIT.parquet, or leave evaluation.data_root "
        "at null to fetch it from the hub"
    )


Splits = tuple[dict[str, tuple[Path, ...]], tuple[Path, ...]]
COMMON = ("train", "training", "validation", "valid", "val", "dev", "test")


def splits_in(folder: Path) -> Splits | None:
    """The splits that lie in a folder, and what stands for any split if there is but one file of another name."""
    if not folder.is_dir():
        return None
    if _is_saved(folder):
        return {}, (folder,)
    splits: dict[str, tuple[Path, ...]] = {
        child.name: (child,) for child in sorted(folder.iterdir()) if _is_saved(child)
    }
    if splits:
        return splits, ()
    there = [*folder.iterdir(), *folder.glob("data/*")]
    files = sorted(file for file in there if _FILE.fullmatch(file.name) and file.name not in _ABOUT)
    for file in files:
        match = _FILE.fullmatch(file.name)
        assert match is not None
        splits[match["split"]] = (*splits.get(match["split"], ()), file)
    if len(splits) == 1 and not splits.keys() & set(COMMON):
        return {}, tuple(files)
    return (splits, ()) if splits else None


def _is_saved(folder: Path) -> bool:
    return all((folder / file).is_file() for file in _SAVED)


def _single(folder: Path, name: str) -> Splits | None:
    """A configuration that is one file, such as ``bbh/snarks.json``."""
    files = [file for file in sorted(folder.glob(f"{name}.*")) if _FILE.fullmatch(file.name)]
    return ({}, tuple(files)) if files else None


def _has_no_configurations(folder: Path) -> bool:
    """Whether the splits of a set lie right in its folder, such as ``gsm8k/test.jsonl``."""
    found = splits_in(folder)
    return found is not None and bool(found[0].keys() & set(COMMON))


def _of_the_only_folder(folder: Path) -> Splits | None:
    children = [child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")]
    return splits_in(children[0]) if len(children) == 1 else None
