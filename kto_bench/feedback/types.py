"""Feedback in memory and on disk: three kinds of rows with the field names of the TRL dataset formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kto_bench.component import Component

if TYPE_CHECKING:
    from kto_bench.losses import Loss
    from kto_bench.training.config import TrainConfig

FeedbackKind = Literal["demonstrations", "binary", "paired"]
Messages = tuple[dict[str, str], ...]
"""A conversation: ({"role": "user", "content": "..."}, ...). A plain-text prompt is one user turn."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A completion to imitate."""

    id: str
    prompt: Messages
    completion: str
    source: str = ""
    """The part of a mixture that it comes from."""


@dataclass(frozen=True, slots=True)
class Binary:
    """A completion and whether it is desirable (``label``)."""

    id: str
    prompt: Messages
    completion: str
    label: bool
    source: str = ""


@dataclass(frozen=True, slots=True)
class Paired:
    """Two completions of one prompt, of which ``chosen`` is preferred."""

    id: str
    prompt: Messages
    chosen: str
    rejected: str
    source: str = ""


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

    def without(self, kept: list[Any], reason: str) -> Feedback:
        """The same with the rows ``kept`` only; the others are dropped for ``reason``."""
        if len(kept) == len(self.rows):
            return self
        first = next(row.id for row, still in zip_longest(self.rows, kept) if row is not still)
        return Feedback(
            self.kind,
            kept,
            {**self.dropped, reason: self.dropped.get(reason, 0) + len(self.rows) - len(kept)},
            {**self.first_dropped, reason: self.first_dropped.get(reason, f"row {first}")},
        )


SUBSAMPLING = ("keep_desirable", "keep_undesirable", "one_completion_per_prompt", "keep_seed")
"""Fields of ``FeedbackSource`` that say which part of the feedback is trained on."""


class Decontamination(Component):
    """What must not be trained on: whatever shares ``words`` words in a row with a text of the evaluation."""

    words: int = Field(13, ge=2, description="how many words in a row; texts that are shorter count as a whole")
    evaluation: bool = Field(True, description="the run's evaluation prompts and benchmarks")
    against: tuple[Path, ...] = Field((), description="more texts: files or folders of JSON, JSON lines or parquet")


class FeedbackSource(Component):
    """Where feedback comes from. ``load`` may be slow; ``kind`` must be cheap, it is asked before anything runs."""

    name: str
    heldout_fraction: float = Field(0.0, ge=0, lt=1, description="share of the prompts kept for evaluation")
    # What training sees of it (feedback/subsampling.py). Held-out prompts and demonstrations stay what they are.
    keep_desirable: float = Field(1.0, gt=0, le=1, description="share of the desirable completions that is trained on")
    keep_undesirable: float = Field(1.0, gt=0, le=1, description="the same of the undesirable ones")
    one_completion_per_prompt: bool = Field(
        False, description="train on one completion of each prompt, drawn at random"
    )
    keep_seed: int = Field(0, ge=0, description="which of them are kept; a run's own seed does not change it")
    label_noise: float = Field(
        0.0, ge=0, le=1, description="share of the training rows whose label is turned round (pairs: whose sides are)"
    )
    decontaminate: Decontamination | None = Field(
        None, description="leave out rows that share n-grams with what the run is evaluated on; null: do not look"
    )

    @property
    def subsamples(self) -> bool:
        """Whether training sees a part of the feedback only."""
        return self.one_completion_per_prompt or self.keep_desirable < 1 or self.keep_undesirable < 1

    @property
    def alters(self) -> bool:
        """Whether training sees anything else than all rows as they are."""
        return self.subsamples or self.label_noise > 0

    @property
    def subsampling(self) -> dict[str, Any]:
        """What decides on that part; noise is among it only where there is some."""
        noisy = {"label_noise"} if self.label_noise > 0 else set()
        return self.model_dump(mode="json", include=set(SUBSAMPLING) | noisy)

    @property
    def holds_out(self) -> bool:
        """Whether some prompts are kept for evaluation."""
        return self.heldout_fraction > 0

    def identity(self) -> dict[str, Any]:
        """The fields that change what ``load`` returns: the part that training sees is a stage of its own."""
        elsewhere = {*SUBSAMPLING, "label_noise", "decontaminate"}
        return {key: value for key, value in super().identity().items() if key not in elsewhere}

    @property
    def given(self) -> FeedbackSource:
        """The source of the rows that are there before anything is trained: itself, unless it asks the policy."""
        return self

    def check(self) -> None:
        """Raise ConfigError where ``load`` would fail for a reason that is known now, such as an annotator's."""

    def check_alignment(self, train: TrainConfig, loss: Loss) -> None:
        """Raise ConfigError where an alignment of ``loss`` with these settings cannot be done with this feedback."""

    def kind(self) -> FeedbackKind:
        """The kind of rows that ``load`` returns."""
        raise TypeError(f"{type(self).__name__} does not define kind()")

    def load(self) -> Feedback:
        """All rows, in a fixed order. Raises FeedbackError on unusable data."""
        raise TypeError(f"{type(self).__name__} does not define load()")

    def heldout(self) -> Feedback | None:
        """Rows that the source keeps for evaluation, such as a published test split; None: a share of ``load()``."""
        return None

    def origin(self) -> dict[str, Any]:
        """Where the rows came from, for the record, once they are loaded; empty where the settings say it all."""
        return {}

    def scores_of(self, prompt: Messages, completion: str) -> dict[str, float]:
        """What the source knows of a completion besides its label, for the record: of simulated feedback, the truth.

        Names are those of judges' scores: ``utility`` (how good it is), ``perceived`` (how good it seems to whoever
        labelled it), others as they come. Empty where nothing is known.
        """
        return {}

    def demonstrations(self) -> Feedback | None:
        """Rows for the SFT start where the source has its own; None means: take the good side of ``load()``."""
        return None


class FeedbackError(ValueError):
    """Unusable feedback. The message names the file, the line and the reason."""


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            fields = {name: value for name, value in asdict(row).items() if name != "source" or value}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def iter_rows(path: Path, kind: FeedbackKind) -> Iterator[Any]:
    """Read what ``write_rows`` wrote, one row after another."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            value = json.loads(line)
            yield ROW_TYPES[kind](**{**value, "prompt": tuple(value["prompt"])})


def read_rows(path: Path, kind: FeedbackKind) -> list[Any]:
    """Read what ``write_rows`` wrote."""
    return list(iter_rows(path, kind))
