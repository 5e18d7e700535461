"""Feedback in memory and on disk: three kinds of rows with the field names of the TRL dataset formats."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from kto_bench.component import Component

FeedbackKind = Literal["demonstrations", "binary", "paired"]
Messages = tuple[dict[str, str], ...]
"""A conversation: ({"role": "user", "content": "..."}, ...). A plain-text prompt is one user turn."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A completion to imitate."""

    id: str
    prompt: Messages
    completion: str


@dataclass(frozen=True, slots=True)
class Binary:
    """A completion and whether it is desirable (``label``)."""

    id: str
    prompt: Messages
    completion: str
    label: bool


@dataclass(frozen=True, slots=True)
class Paired:
    """Two completions of one prompt, of which ``chosen`` is preferred."""

    id: str
    prompt: Messages
    chosen: str
    rejected: str


Row = Demonstration | Binary | Paired
ROW_TYPES: dict[FeedbackKind, type[Row]] = {"demonstrations": Demonstration, "binary": Binary, "paired": Paired}


@dataclass(frozen=True)
class Feedback:
    """Rows of one kind, how many were dropped on the way by reason, and where the first of each reason is."""

    kind: FeedbackKind
    rows: list[Any]
    dropped: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


class FeedbackSource(Component):
    """Where feedback comes from. ``load`` may be slow; ``kind`` must be cheap, it is asked before anything runs."""

    name: str
    heldout_fraction: float = Field(0.0, ge=0, lt=1, description="share of the prompts kept for evaluation")

    def kind(self) -> FeedbackKind:
        """The kind of rows that ``load`` returns."""
        raise TypeError(f"{type(self).__name__} does not define kind()")

    def load(self) -> Feedback:
        """All rows, in a fixed order. Raises FeedbackError on unusable data."""
        raise TypeError(f"{type(self).__name__} does not define load()")

    def demonstrations(self) -> Feedback | None:
        """Rows for the SFT start where the source has its own; None means: take the good side of ``load()``."""
        return None


class FeedbackError(ValueError):
    """Unusable feedback. The message names the file, the line and the reason."""


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_rows(path: Path, kind: FeedbackKind) -> list[Any]:
    """Read what ``write_rows`` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        values = [json.loads(line) for line in file]
    return [ROW_TYPES[kind](**{**value, "prompt": tuple(value["prompt"])}) for value in values]
