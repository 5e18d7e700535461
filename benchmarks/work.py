"""What both sides of a comparison do: one file of settings, read by every turn. Imports neither side."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

LossName = Literal["kto", "dpo", "sft"]
COLUMNS: dict[str, tuple[str, ...]] = {
    "kto": ("completion",),
    "dpo": ("chosen", "rejected"),
    "sft": ("completion",),
}
"""Of a row, the fields that hold completions."""
CHECKPOINT, ROWS, PEER_ROWS, PEER_IDS, SETTINGS = "checkpoint", "rows.jsonl", "peer.jsonl", "ids.json", "work.json"


@dataclass(frozen=True)
class Work:
    """One comparison: the loss, the batches, the optimiser. ``steps`` are counted, ``warmup_steps`` come before them
    and are not; they are the first steps done once more, so that every counted step sees examples of its own."""

    loss: LossName
    precision: Literal["bf16", "fp32"]
    completions_per_step: int
    steps: int
    warmup_steps: int
    learning_rate: float
    seed: int
    lora_rank: int | None = None
    max_tokens_per_microbatch: int | None = None
    """Of the suite; None: its default. The peer has no such setting: a step is one micro-batch, as is its default."""

    def save(self, folder: Path) -> None:
        """Write ``work.json``."""
        (folder / SETTINGS).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Work:
        """Read what ``save`` wrote."""
        return cls(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))


def write_json(file: Path, value: Any) -> None:
    """Write ``value``, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.rename(file)
