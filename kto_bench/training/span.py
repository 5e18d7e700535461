"""A training in several parts, between which new data are collected: the optimiser never notices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE = "state"
"""Folder of an artifact with the state after its last step, from which the training of the next span goes on."""


@dataclass(frozen=True)
class Span:
    """The steps ``first`` + 1 to ``last`` of a training of ``total`` steps."""

    first: int
    last: int
    total: int

    @property
    def steps(self) -> int:
        """How many they are."""
        return self.last - self.first

    @property
    def is_last(self) -> bool:
        """Whether no other span follows."""
        return self.last == self.total

    @property
    def plain(self) -> dict[str, int]:
        """For fingerprints."""
        return {"first": self.first, "last": self.last, "total": self.total}


def go_on(artifact: Path, span: Span, module: Any, optimiser: Any, scheduler: Any, into: Path) -> None:
    """Restore weights, optimiser, schedule and metrics that the span before left in its ``artifact``.

    Raises SaveError where they are not those of step ``span.first``.
    """
    from kto_bench.training.saves import SaveError, Saves  # torch, which plans need not load

    done = Saves(artifact / STATE, lambda text: None).load(module, optimiser, scheduler, into)
    if done != span.first:
        raise SaveError(
            f"{artifact / STATE} holds the state of step {done}, and training is to go on from step {span.first}; "
            f"delete {artifact} to make it again"
        )
