"""Who looks on while the stages of a run are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kto_bench.preemption import Preemption
from kto_bench.screen import Remote, Screen

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Watch:
    """The screen, and whoever wants the alignment's metrics as they happen."""

    screen: Screen | Remote
    on_metrics: Callable[[Metrics, Metrics], None]
    preemption: Preemption
