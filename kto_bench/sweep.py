"""What happens around a multirun: every cell is checked before the first one starts, and counted after the last."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from kto_bench.component import USAGE_ERROR, ConfigError
from kto_bench.config import resolve
from kto_bench.feedback.types import FeedbackError
from kto_bench.machines import machine_rank
from kto_bench.preemption import EXIT_STATUS
from kto_bench.record import Record
from kto_bench.run import describe
from kto_bench.tracking import check_tracking


class Ledger(Callback):
    """Hydra's hooks around a multirun. Hydra itself reports only the first failure, last, and has no resume."""

    def __init__(self) -> None:
        # Names and records only: Hydra pickles its callbacks for the workers.
        self._cells: dict[str, Record] = {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Resolve and check all cells; on any bad one, print all complaints and leave before any compute."""
        complaints: dict[str, list[str]] = {}
        distinct: dict[str, str] = {}
        for overrides in _cells(config):
            try:
                resolved = resolve(compose(config.hydra.job.config_name, overrides))
                check_tracking(resolved.tracking)
                plan, record = describe(resolved)
                self._cells[plan.name] = record
                distinct |= {stage.fingerprint: stage.name for stage in plan.stages.values()}
            except (ConfigError, FeedbackError) as error:
                complaints.setdefault(str(error), []).append(" ".join(overrides))
        if complaints:
            for complaint, cells in complaints.items():
                print(f"kto-bench: {complaint}\n  in {len(cells)} cell(s), the first: {cells[0]}", file=sys.stderr)
            # Hydra turns any Exception of a callback into a warning and goes on.
            raise SystemExit(USAGE_ERROR)
        done = sum(record.state() == "done" for record in self._cells.values())
        stages = ", ".join(f"{count} {name}" for name, count in Counter(distinct.values()).items())
        Console(stderr=True).print(
            f"{len(self._cells)} cells, {done} already done; distinct stages: {stages}", highlight=False, soft_wrap=True
        )
        if done == len(self._cells):
            # Starting workers only to find that there is nothing to do would take longer than all the rest.
            raise SystemExit(0)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the state of every cell and where each failure's traceback lies.

        Exit status 1 if any failed, and otherwise 143 if any was preempted.
        """
        if config.train.nodes > 1 and machine_rank() > 0:
            return  # the first machine counts
        console = Console(stderr=True)
        states = {name: record.state() or "missing" for name, record in sorted(self._cells.items())}
        table = Table("run", "state", title=f"sweep {config.sweep}")
        for name, state in states.items():
            table.add_row(name, state)
        console.print(table)
        unfinished = [name for name, state in states.items() if state != "done"]
        for name in unfinished:
            where = self._cells[name].folder / "status.json"
            console.print(f"{states[name]}: see {where}", highlight=False, soft_wrap=True)
        if unfinished:
            # Cells that a preempted sweep did not begin have no record, or an older one.
            stopped = "preempted" in states.values() and "failed" not in states.values()
            raise SystemExit(EXIT_STATUS if stopped else 1)


def _cells(config: DictConfig) -> list[list[str]]:
    """The overrides of each cell, as Hydra's basic sweeper expands them."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    return [cell for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for cell in batch]
