"""Drawers: the processes, one per core, that draw the figures of a report, which are most of its work."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import page
from analysis.registry import Drawing
from kto_bench.helpers import available, helpers


@dataclass(frozen=True)
class Plan:
    """A figure to draw: ``make`` is called once for each width."""

    name: str
    title: str
    make: Callable[[], Drawing]


_given: dict[str, list[Plan]] = {}
"""To this process, by the one that it helps."""


def figures(
    plans: Sequence[Plan], folder: Path, progress: page.Progress, processes: int | None = None
) -> list[page.Shown]:
    """Each of ``plans`` as ``page.figure`` draws it into ``folder``, in their order: the same files and the same words
    whatever the number of processes (None: one per core, if that is safe)."""
    count = min(processes or _safe(), len(plans))
    if count <= 1:
        return [page.figure(plan.name, plan.title, plan.make, folder, progress) for plan in plans]
    drawn = []
    with helpers(count, _begin, list(plans)) as pool:
        for shown, said in pool.map(_draw, range(len(plans)), [folder] * len(plans)):
            for message in said:
                progress(message)
            drawn.append(shown)
    return drawn


def _begin(plans: list[Plan]) -> None:
    gc.disable()  # a drawer does not live long enough to need its memory back
    _given["plans"] = plans


def _draw(number: int, folder: Path) -> tuple[page.Shown, list[str]]:
    plan, said = _given["plans"][number], list[str]()
    return page.figure(plan.name, plan.title, plan.make, folder, said.append), said


def _safe() -> int:
    """One process where others could not be forked, or could not use torch, which does not survive a fork after use."""
    return available() if sys.platform == "linux" and "torch" not in sys.modules else 1
