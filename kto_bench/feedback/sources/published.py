"""What published sets have in common: they come from the hub or from files as published, and become rows by a rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from kto_bench.feedback.collector import Collector
from kto_bench.feedback.sources.content import digests_of
from kto_bench.feedback.sources.records import (
    SPLITS,
    Drop,
    Record,
    files_in,
    files_of_split,
    is_saved,
    read_hub,
    read_path,
)
from kto_bench.feedback.types import Feedback, FeedbackError, FeedbackKind, FeedbackSource


class PublishedSet(FeedbackSource):
    """A set on the Hugging Face hub, or the same files in ``path``.

    A subclass gives ``rows_are``, the hub id as the default of ``hub``, and ``convert``. Of the hub's files, a commit
    as ``revision`` fixes what they are; "main" is whatever it is when the set is fetched, once for each artifact.
    """

    rows_are: ClassVar[FeedbackKind]
    hub: str = Field(min_length=1, description="id on the hub")
    subset: str | None = Field(None, description="a configuration of the set, where it has several")
    data_dir: str | None = Field(None, description="a folder of the set, where it has several")
    revision: str = Field("main", min_length=1, description="branch, tag or commit on the hub")
    split: str = Field("train", min_length=1, description="the split that is trained on")
    heldout_split: str | None = Field(None, description="the split that is kept for evaluation; null: heldout_fraction")
    path: Path | None = Field(None, description="files as published, a save_to_disk folder; null: from the hub")
    limit: int | None = Field(None, ge=1, description="keep this many rows from the front")

    @field_validator("path")
    @classmethod
    def _path_exists(cls, path: Path | None) -> Path | None:
        if path is not None and not path.expanduser().exists():
            raise ValueError(f"there is nothing (looked in {Path.cwd()}); give a file or a folder, or null for the hub")
        return path

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> PublishedSet:
        if self.heldout_split is not None and self.heldout_fraction > 0:
            raise ValueError(
                f"heldout_split: {self.heldout_split} and heldout_fraction: {self.heldout_fraction} are two ways to "
                "hold out prompts; set heldout_split to null, or heldout_fraction to 0"
            )
        if self.heldout_split == self.split:
            raise ValueError(f"heldout_split: {self.split!r} is trained on (split); choose another one")
        if self.path is not None and self.heldout_split is not None and not self._has_both(self.path):
            raise ValueError(
                f"heldout_split: {self.path} has no files of its own for {self.heldout_split!r}; choose "
                "heldout_split=null with a heldout_fraction"
            )
        return self

    @property
    def strict(self) -> bool:
        """Whether a record that is no row is an error rather than counted."""
        return False

    @property
    def holds_out(self) -> bool:
        """Whether some prompts are kept for evaluation."""
        return self.heldout_split is not None or super().holds_out

    def kind(self) -> FeedbackKind:
        """Known without reading anything."""
        return self.rows_are

    def load(self) -> Feedback:
        """The rows of ``split``. Raises FeedbackError where it cannot be read or is another set."""
        return self._load(self.split, self.limit)

    def heldout(self) -> Feedback | None:
        """The rows of ``heldout_split``."""
        return None if self.heldout_split is None else self._load(self.heldout_split, None)

    def identity(self) -> dict[str, Any]:
        """The settings; of local files, their content in place of where they come from."""
        identity = super().identity()
        if self.path is not None:
            splits = {self.split, self.heldout_split} - {None}
            root = self._root(self.path)
            files = {file for split in splits for file in files_in(root, split)}
            identity["path"] = digests_of(sorted(files), root)
            for field in ("hub", "revision", "subset", "data_dir"):
                del identity[field]
        return identity

    def origin(self) -> dict[str, Any]:
        """The files that were read and their content; or the hub's commit, None where the hub does not say."""
        if self.path is not None:
            return {"files": self.identity()["path"]}
        import datasets

        arguments = self.hub_arguments(self.split)
        del arguments["split"]
        found = re.fullmatch("[0-9a-f]{40}", str(datasets.load_dataset_builder(**arguments).hash))
        return {"hub": self.hub, "revision": self.revision, "commit": found[0] if found else None}

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """The rows that ``records`` stand for: values in the dataset formats of TRL, and their ids and places."""
        raise TypeError(f"{type(self).__name__} does not define convert()")

    def records(self, split: str) -> Iterator[Record]:
        """The records of a split as published."""
        if self.path is None:
            return read_hub(self.hub_arguments(split), f"{self.hub} ({split})")
        return read_path(self._root(self.path), split)

    def hub_arguments(self, split: str) -> dict[str, Any]:
        """What ``datasets.load_dataset`` is given."""
        return {
            "path": self.hub,
            "name": self.subset,
            "data_dir": self.data_dir,
            "split": split,
            "revision": self.revision,
        }

    def _has_both(self, path: Path) -> bool:
        """Whether what is held out has files of its own in ``path``."""
        root = self._root(path)
        if root.is_dir() and is_saved(root):
            return (root / SPLITS).is_file()
        return bool(files_of_split(root, self.heldout_split))

    def _root(self, path: Path) -> Path:
        return path.expanduser() / (self.data_dir or "")

    def _load(self, split: str, limit: int | None) -> Feedback:
        collector = Collector(strict=self.strict)
        for row in self.convert(self.records(split), collector.drop):
            collector.parse(row.value, row.id, row.place)
            if limit is not None and len(collector.rows) >= limit:
                break
        return collector.feedback(self.path or f"{self.hub} ({split})")


def require(value: Any, fields: Mapping[str, type | tuple[type, ...]], place: str) -> None:
    """Raise FeedbackError unless ``value`` is an object with these fields of these types."""
    for name, types in fields.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), types):
            expected = " or ".join(one.__name__ for one in (types if isinstance(types, tuple) else (types,)))
            raise FeedbackError(f"{place}: expected an object with {name!r} of type {expected}; is it the right set?")


def user(text: str) -> list[dict[str, str]]:
    """A prompt of one turn."""
    return [{"role": "user", "content": text}]
