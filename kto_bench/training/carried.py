"""What a training carries from step to step besides weights: a loss's running means, and a synced reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kto_bench.training.reference import ReferenceLogProbs

MEANS, SYNCED = "running_means.json", "synced_reference.npz"


@dataclass(frozen=True)
class Cached:
    """The reference's log-probabilities: of the data's completions, and of the schedule's mismatched pairs in order."""

    matched: ReferenceLogProbs | None = None
    mismatched: ReferenceLogProbs | None = None


class RunningMeans:
    """Means of a loss's statistics over all examples of all steps so far. Sums are exact across saves."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sums = dict.fromkeys(names, (0.0, 0.0))

    def add(self, name: str, total: float, count: float) -> None:
        """Take in one step's sum of a statistic over ``count`` examples; a name that is not tracked is let go."""
        if name in self._sums:
            before = self._sums[name]
            self._sums[name] = before[0] + total, before[1] + count

    @property
    def means(self) -> dict[str, float]:
        """By name; absent as long as no example had the statistic."""
        return {name: total / count for name, (total, count) in self._sums.items() if count}

    def write(self, folder: Path) -> None:
        """Keep the sums in ``folder``."""
        (folder / MEANS).write_text(json.dumps(self._sums), encoding="utf-8")

    def read(self, folder: Path) -> None:
        """Go on from what ``write`` kept."""
        kept = json.loads((folder / MEANS).read_text(encoding="utf-8"))
        self._sums = {name: (total, count) for name, (total, count) in kept.items()}


def save_synced(folder: Path, cached: Cached) -> None:
    """Keep a synced reference in ``folder``."""
    parts = {"matched": cached.matched, "mismatched": cached.mismatched}
    arrays = {
        f"{name}_{field}": array
        for name, part in parts.items()
        if part is not None
        for field, array in zip(("values", "lengths", "names"), part.arrays, strict=True)
    }
    np.savez(folder / SYNCED, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own option


def load_synced(folder: Path) -> Cached:
    """What ``save_synced`` kept."""
    with np.load(folder / SYNCED) as arrays:
        parts = {
            name: ReferenceLogProbs(*(arrays[f"{name}_{field}"] for field in ("values", "lengths", "names")))
            for name in ("matched", "mismatched")
            if f"{name}_values" in arrays
        }
    return Cached(**parts)
