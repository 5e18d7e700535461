"""How long work will take, from how long the same stages took before."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Labels = Mapping[str, Any]
MANIFEST = "stage.json"


class History:
    """Wall seconds of the stages that ``artifacts`` holds, and for which models and losses they were made.

    A stage is asked for by its label.

    The latter is known from the records under ``results``: whichever runs name a stage among theirs share it.
    """

    def __init__(self, artifacts: Path, results: Path) -> None:
        """Damaged files are left out."""
        self._seconds: dict[str, dict[str, float]] = defaultdict(dict)
        for path in artifacts.glob(f"*/*/{MANIFEST}"):
            seconds = read_object(path).get("wall_seconds")
            if isinstance(seconds, (int, float)):
                self._seconds[path.parent.parent.name][path.parent.name] = float(seconds)
        self._users: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for path in [*results.glob("*/*/run.json"), *results.glob("reference/*/*/run.json")]:
            run = read_object(path)
            labels, stages = run.get("labels"), run.get("stages")
            if isinstance(labels, dict) and isinstance(stages, dict):
                for fingerprint in stages.values():
                    self._users[str(fingerprint)].add(_user(labels))

    def has(self, stage: str, fingerprint: str) -> bool:
        """Whether the artifact is there."""
        return fingerprint in self._of(stage)

    def knows(self, stage: str, labels: Labels) -> bool:
        """Whether the stage was done for this very model."""
        users = (self._users.get(fingerprint, set()) for fingerprint in self._of(stage))
        return any(model == str(labels.get("model")) for of in users for model, _ in of)

    def seconds(self, stage: str, labels: Labels) -> float | None:
        """Median over the same stage of the same model and loss; of the same model; or of any. None if there are none
        at all."""
        model, loss = _user(labels)
        found = self._of(stage)
        users = {fingerprint: self._users.get(fingerprint, set()) for fingerprint in found}
        closest = [found[one] for one, of in users.items() if (model, loss) in of]
        close = [found[one] for one, of in users.items() if any(name == model for name, _ in of)]
        values = closest or close or list(found.values())
        return median(values) if values else None

    def _of(self, stage: str) -> dict[str, float]:
        return self._seconds.get(stage.partition("/")[0], {})


@dataclass(frozen=True)
class Cell:
    """A run that is to be done: its labels, the fingerprints of its stages in order, and how far the present one is."""

    labels: Labels
    stages: Mapping[str, str]
    at: str | None = None
    """The stage that is being built now, of which ``left`` seconds are left (None: unknown)."""
    left: float | None = None


@dataclass(frozen=True)
class Estimate:
    """``work`` in seconds over all distinct stages, ``wall`` with the workers there are, and how many stages of each
    name are in neither. ``rough``: some are estimated from other models, which may be of quite another size."""

    work: float
    wall: float
    unknown: Mapping[str, int]
    rough: bool = False

    def __str__(self) -> str:
        """Such as "about 2 h 5 min; no estimate for 3 align"."""
        if not self.work:
            return f"no estimate for {counted(self.unknown)}" if self.unknown else "nothing to compute"
        text = f"about {duration(self.wall)}"
        if self.rough:
            text += ", in part going by models of perhaps another size"
        if self.work > 1.05 * self.wall:
            text += f" ({duration(self.work)} of work)"
        return f"{text}; no estimate for {counted(self.unknown)}" if self.unknown else text


def estimate(cells: Iterable[Cell], history: History, workers: int = 1) -> Estimate:
    """How long the stages that are not there yet take, each counted once.

    No number of workers is faster than the chain of stages of one cell.
    """
    cells = list(cells)
    # A run that is at a stage knows best how long it takes, also for those that wait for it.
    present = {cell.stages.get(cell.at or ""): cell.left for cell in cells if cell.left is not None}
    distinct: dict[str, float | None] = {}
    names: dict[str, str] = {}
    chains = [0.0]
    rough = False
    for cell in cells:
        chain = 0.0
        for stage, fingerprint in cell.stages.items():
            if history.has(stage, fingerprint):
                continue
            seconds = present[fingerprint] if fingerprint in present else history.seconds(stage, cell.labels)
            if distinct.get(fingerprint) is None:
                distinct[fingerprint] = seconds
                rough |= seconds is not None and fingerprint not in present and not history.knows(stage, cell.labels)
            names[fingerprint] = stage.partition("/")[0]
            chain += seconds or 0.0
        chains.append(chain)
    work = sum(seconds for seconds in distinct.values() if seconds is not None)
    unknown = Counter(names[fingerprint] for fingerprint, seconds in distinct.items() if seconds is None)
    return Estimate(work, max(work / max(workers, 1), *chains), unknown, rough)


def counted(counts: Mapping[str, int]) -> str:
    """Such as "2 align, 2 generate"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min", "3 h 20 min" or "2 d 4 h"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _user(labels: Labels) -> tuple[str, str]:
    return str(labels.get("model")), str(labels.get("loss"))
