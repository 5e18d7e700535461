"""Feedback as token ids, in memory or in Arrow files that are mapped into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from kto_bench.feedback.token_lists import TokenLists, Tokens, lengths_of
from kto_bench.feedback.types import FeedbackKind

PROMPTS, COMPLETIONS = "prompts.arrow", "completions.arrow"
PROMPT_FIELDS = pa.schema([("ids", pa.list_(pa.int32())), ("whole", pa.int32())])
"""A row per distinct prompt: its ids, and how many there were before the cut."""
COMPLETION_FIELDS = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("whole", pa.int32()),
        ("prompt", pa.int64()),
        ("desirable", pa.bool_()),
        ("row", pa.string()),
        ("source", pa.string()),
    ]
)
"""A row per completion; ``prompt`` is a row of the prompts, ``row`` the id of a row of the feedback, and ``source``
its part of a mixture."""


@dataclass(frozen=True)
class TokenisedFeedback:
    """n completions and their prompts as token ids.

    Of paired feedback, completion 2i is the chosen one of pair i and 2i + 1 its rejected one.
    """

    kind: FeedbackKind
    prompts: Sequence[Tokens]
    """Distinct prompts, in the order of their first row."""
    prompt_of: np.ndarray
    """(n,) int64 index into ``prompts``."""
    completions: Sequence[Tokens]
    """n lists of ids, end token included."""
    desirable: np.ndarray | None
    """(n,) bool for binary feedback, else None."""
    ids: Sequence[str]
    """n ids: of the row that each completion comes from."""
    truncated: dict[str, int] = field(default_factory=dict)
    """How many of ``prompts`` and ``completions`` were cut."""

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 tokens of each completion with its prompt."""
        return lengths_of(self.prompts)[self.prompt_of] + lengths_of(self.completions)

    @classmethod
    def of(cls, prompts: pa.Table, completions: pa.Table) -> TokenisedFeedback:
        """What the two tables hold; their ids are not copied."""
        kind = cast(FeedbackKind, completions.schema.metadata[b"kind"].decode())
        sides = {"prompt": prompts, "completion": completions}
        lists = {side: TokenLists.from_arrow(table["ids"]) for side, table in sides.items()}
        return cls(
            kind=kind,
            prompts=lists["prompt"],
            prompt_of=completions["prompt"].to_numpy(),
            completions=lists["completion"],
            desirable=completions["desirable"].to_numpy() if kind == "binary" else None,
            ids=_Column(completions["row"]),
            truncated={
                side: int((table["whole"].to_numpy() > lists[side].lengths).sum()) for side, table in sides.items()
            },
        )

    @classmethod
    def load(cls, folder: Path) -> TokenisedFeedback:
        """Map what ``tokenising.tokenise_file`` wrote into memory: the operating system reads what is looked at."""
        return cls.of(*mapped(folder))


def mapped(folder: Path) -> tuple[pa.Table, pa.Table]:
    """Prompts and completions of an artifact, memory-mapped."""
    prompts, completions = (
        pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all() for name in (PROMPTS, COMPLETIONS)
    )
    return prompts, completions


class _Column(Sequence[str]):
    """The texts of an Arrow column, each read when it is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        return [self[i] for i in range(*index.indices(len(self)))] if isinstance(index, slice) else self._text(index)

    def _text(self, index: int) -> str:
        text: str = self._column[int(index)].as_py()
        return text

    def __eq__(self, other: object) -> bool:
        return list(self) == other

    __hash__ = None  # type: ignore[assignment]
