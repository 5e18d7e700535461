"""The checkpoint that is being evaluated, loaded once for all the stages that ask it one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kto_bench.models import load_policy, load_tokenizer

_last: dict[Path, tuple[Any, Any]] = {}


def loaded(checkpoint: Path) -> tuple[Any, Any]:
    """(policy on the device, tokenizer) of a checkpoint. The one that was asked for last stays in memory, and no other.

    Both are shared: leave them as they are.
    """
    from kto_bench.training.device import pick_device

    checkpoint = checkpoint.absolute()
    if checkpoint not in _last:
        forget()  # before the next one is there, since two may not fit
        _last[checkpoint] = load_policy(checkpoint).to(pick_device()), load_tokenizer(checkpoint)
    return _last[checkpoint]


def forget() -> None:
    """Give the memory back."""
    _last.clear()
