"""What happens around a multirun: every cell is checked and announced before the first one starts, and counted after
the last."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from kto_bench.component import USAGE_ERROR, ConfigError
from kto_bench.composition import Composer
from kto_bench.config import Config, resolve
from kto_bench.estimate import Cell, History, estimate
from kto_bench.feedback.types import FeedbackError
from kto_bench.heartbeat import file_system_time, is_stale
from kto_bench.machines import check_machines, machine_rank
from kto_bench.preemption import EXIT_STATUS
from kto_bench.record import Record
from kto_bench.run import Plan, describe, lock_of
from kto_bench.store import fingerprint_of
from kto_bench.tracking import check_tracking
from kto_bench.tuning.cells import split

Overrides = list[str]
LAUNCHING = ("sweep", "artifacts", "results", "tracking", "retry", "refused", "timeout_minutes")
"""Parts of a configuration that say how a cell is launched, and not what it is."""


@dataclass
class Cells:
    """The cells of a multirun, described: those that can be run by name, and those that were refused."""

    described: dict[str, tuple[Config, Plan, Record]] = field(default_factory=dict)
    refused: list[tuple[Overrides, DictConfig, str]] = field(default_factory=list)
    """Overrides, configuration and complaint."""
    not_refused_any_more: list[Record] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Of a sweep that is tuned, why some cells are not known yet."""


def aloud(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook of Hydra's whose errors end the command: Hydra makes warnings of them, and exits with 0."""

    @wraps(hook)
    def loud(*arguments: Any, **named: Any) -> None:
        try:
            hook(*arguments, **named)
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None

    return loud


class Ledger(Callback):
    """Hydra's hooks around a multirun. Hydra itself reports only the first failure, last, and has no resume."""

    def __init__(self, only_plan: bool = False) -> None:
        """``only_plan``: print what would be done, and leave."""
        # Names and records only: Hydra pickles its callbacks for the workers.
        self._records: dict[str, Record] = {}
        self._trials: set[str] = set()
        self._only_plan = only_plan

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """A single run: print its plan and leave, where nothing else is wanted."""
        if self._only_plan:
            cells = Cells()
            own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            _describe(cells, [], own, here=False)
            _complain(cells)
            _print_plan(cells, config, Console(), alone=True)
            raise SystemExit(0)

    @aloud
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all cells, print the plan and announce what will be run; leave where there is nothing to do.

        On any cell that cannot be run, print all complaints and leave before any compute, unless refused=skip.
        """
        cells = _cells(config)
        if config.refused != "skip":
            _complain(cells)
        self._keep(cells)
        _print_plan(cells, config, Console(stderr=not self._only_plan))
        if self._only_plan:
            raise SystemExit(0)
        with _writable(config):
            if machine_rank() == 0 or config.train.nodes == 1:
                for described in cells.described.values():
                    _announce(*described)
                for old in cells.not_refused_any_more:
                    shutil.rmtree(old.folder, ignore_errors=True)  # another launch may be at it
            for overrides, node, complaint in cells.refused:
                record = self._skip(node, complaint)
                print(f"kto-bench: skipped {' '.join(overrides)}: {complaint}", file=sys.stderr)
                self._records[record.folder.name] = record
            states = set(self._states().values())
        if states <= {"done", "lost", "failed", "skipped"} and not (cells.waiting and "failed" not in states):
            # Starting workers only to find that there is nothing to do would take longer than all the rest.
            self._leave(config, cells.waiting, quiet=states <= {"done", "lost"})

    @aloud
    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the state of every cell and where each failure's traceback lies.

        Exit status 1 if any failed, and otherwise 143 if any was preempted.
        """
        if config.train.nodes > 1 and machine_rank() > 0:
            return  # the first machine counts
        waiting = []
        if config.get("tune") is not None:  # by now it is known which trials have won
            cells = _cells(config)
            waiting = cells.waiting
            self._keep(cells)
        self._leave(config, waiting, quiet=False)

    def _keep(self, cells: Cells) -> None:
        self._records |= {name: record for name, (_, _, record) in cells.described.items()}
        self._trials |= {name for name, (config, _, _) in cells.described.items() if config.run.role == "trial"}

    def _states(self) -> dict[str, str]:
        return {name: _state(record, is_trial=name in self._trials) for name, record in sorted(self._records.items())}

    def _skip(self, node: DictConfig, complaint: str) -> Record:
        record, labels, plain = _as_refused(node)
        record.skipped(complaint, labels, plain)
        return record

    def _leave(self, config: DictConfig, waiting: list[str], *, quiet: bool) -> None:
        """Report, and raise SystemExit with what became of the cells."""
        states = self._states()
        unfinished = [name for name, state in states.items() if state not in ("done", "lost", "skipped")]
        if not quiet:
            console = Console(stderr=True)
            table = Table("run", "state", title=f"sweep {config.sweep}")
            for name, state in states.items():
                table.add_row(name, state)
            console.print(table)
            for name in unfinished:
                where = self._records[name].folder / "status.json"
                console.print(f"{states[name]}: see {where}", highlight=False, soft_wrap=True)
            for reason in waiting:
                console.print(f"not known yet: {reason}", highlight=False, soft_wrap=True)
        if unfinished or waiting:
            # Cells that a preempted sweep did not begin are pending, or have an older record.
            stopped = "preempted" in states.values() and "failed" not in states.values()
            raise SystemExit(EXIT_STATUS if stopped else 1)
        raise SystemExit(0)


def _cells(config: DictConfig) -> Cells:
    """Every cell of the multirun, resolved and described; nothing is computed or written."""
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    grid = [cell for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None) for cell in batch]
    cells = Cells()
    try:
        known = split(config, grid)
    except (ConfigError, FeedbackError) as error:
        print(f"kto-bench: {error}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None
    cells.waiting = known.waiting
    composer = Composer(config.hydra.job.config_name, list(config.hydra.overrides.hydra))
    with _without_collections():
        here = "submitit" not in str((config.hydra.get("launcher") or {}).get("_target_"))
        for cell in known.known:
            _describe(cells, cell, composer.compose(cell), here=here)
    return cells


@contextmanager
def _without_collections() -> Iterator[None]:
    """Composing makes many small objects that live on; looking for dead ones among them is a fifth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _describe(cells: Cells, overrides: Overrides, node: DictConfig, *, here: bool) -> None:
    """Add one cell. ``here``: this machine is the one that runs it."""
    try:
        config = resolve(node)
        if here:
            check_machines(config.train.nodes, config.processes)
        check_tracking(config.tracking)
        plan, record = describe(config)
    except (ConfigError, FeedbackError) as error:
        cells.refused.append((overrides, node, str(error)))
        return
    cells.described[plan.name] = config, plan, record
    old = _as_refused(node)[0]
    if old.state() == "skipped":
        cells.not_refused_any_more.append(old)


def _complain(cells: Cells) -> None:
    """Print every complaint once and leave, if there are any."""
    complaints: dict[str, list[Overrides]] = {}
    for overrides, _, complaint in cells.refused:
        complaints.setdefault(complaint, []).append(overrides)
    for complaint, those in complaints.items():
        where = f"\n  in {len(those)} cell(s), the first: {' '.join(those[0])}" if those[0] else ""
        print(f"kto-bench: {complaint}{where}", file=sys.stderr)
    if complaints:
        # Hydra turns any Exception of a callback into a warning and goes on.
        raise SystemExit(USAGE_ERROR)


def _print_plan(cells: Cells, config: DictConfig, console: Console, *, alone: bool = False) -> None:
    """How many cells and distinct stages there are, how many of them are there already, and how long the rest takes."""
    states = {
        name: _state(record, is_trial=config.run.role == "trial")
        for name, (config, _, record) in cells.described.items()
    }
    counts = Counter(states.values())
    left_alone = () if config.retry == "failed" or alone else ("failed",)
    todo = [name for name, state in states.items() if state not in ("done", "lost", *left_alone)]
    parts = [f"{len(states) + len(cells.refused)} cells", f"{counts['done']} already done"]
    if counts["failed"] and left_alone:
        parts.append(f"{counts['failed']} failed before and left alone (retry=failed runs them again)")
    if counts["lost"]:
        parts.append(f"{counts['lost']} trials lost (their training diverged)")
    if cells.refused:
        parts.append(f"{len(cells.refused)} refused and skipped")
    parts += [f"{counts[state]} {state}" for state in ("running", "stale", "preempted") if counts[state]]
    if len(todo) < len(states):
        parts.append(f"{len(todo)} to do")
    stages = {
        stage.fingerprint: (stage.name, _artifacts(config) / stage.name / stage.fingerprint)
        for _, plan, _ in cells.described.values()
        for stage in plan.stages.values()
    }
    distinct = Counter(name for name, _ in stages.values())
    there = Counter(name for name, folder in stages.values() if (folder / "stage.json").exists())
    shown = [f"{count} {name}" + (f" ({there[name]} there)" if there[name] else "") for name, count in distinct.items()]
    lines = [", ".join(parts), f"distinct stages: {', '.join(shown)}"]
    if todo:
        history = History(_artifacts(config), Path(config.results))
        work = [Cell(plan.labels, plan.fingerprints) for _, plan, _ in (cells.described[name] for name in todo)]
        workers = _workers(config)
        with_workers = f", with {workers} workers" if workers > 1 else ""
        lines.append(f"time: {estimate(work, history, workers)}{with_workers}")
    lines += [f"not known yet: {reason}" for reason in cells.waiting]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _artifacts(config: DictConfig) -> Path:
    return Path(config.artifacts)


def _workers(config: DictConfig) -> int:
    """How many cells the launcher runs at once, as far as it says so."""
    launcher = config.hydra.get("launcher") or {}
    count = launcher.get("n_jobs") or launcher.get("array_parallelism") or 1
    return count if count > 0 else max(1, (os.cpu_count() or 1) + 1 + count)


def _state(record: Record, *, is_trial: bool) -> str:
    """The state on disk; "missing" where there is none, "stale" where it says running and nobody runs it, and "lost"
    for a trial whose training diverged."""
    status = record.status()
    if status is None:
        return "missing"
    if is_trial and record.diverged:
        return "lost"
    if status["state"] == "running" and is_stale(record.folder, status, file_system_time(record.folder.parent)):
        return "stale"
    return str(status["state"])


def _announce(config: Config, plan: Plan, record: Record) -> None:
    """A pending record where there is none that counts; never over one that another launch is at work on."""

    lost = config.run.role == "trial" and record.diverged

    def counts() -> bool:
        state = record.state()
        return state is not None and not (state == "failed" and config.run.retry == "failed" and not lost)

    if counts():
        return
    lock = lock_of(config, plan)
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            if not counts():
                record.pending(plan.labels, plan.fingerprints, config.plain)
    except Timeout:
        return


def _as_refused(node: DictConfig) -> tuple[Record, dict[str, Any], dict[str, Any]]:
    """The record of a cell that cannot be described, its labels and its configuration, by what was asked for."""
    plain: Any = OmegaConf.to_container(node, resolve=False)

    def name(group: str) -> Any:
        chosen = plain.get(group)
        return chosen.get("name", "?") if isinstance(chosen, Mapping) else "?"

    labels = {group: name(group) for group in ("loss", "start", "model", "feedback")} | {"seed": plain.get("seed")}
    asked = {key: value for key, value in plain.items() if key not in LAUNCHING}
    fingerprint = fingerprint_of(["refused", asked])
    words = [str(labels[label]) for label in ("loss", "start", "model")]
    run = "-".join([*words, f"s{labels['seed']}", fingerprint[:8]]).replace(os.sep, "_")
    folder = Path(str(plain["results"])) / str(plain["sweep"]) / run
    return Record(folder, run, str(plain["sweep"]), fingerprint), labels, plain


@contextmanager
def _writable(config: DictConfig) -> Iterator[None]:
    """Leave with a readable message where records cannot be written; Hydra would warn and go on."""
    try:
        yield
    except OSError as error:
        print(
            f"kto-bench: results: {config.results!r} or artifacts: {config.artifacts!r} cannot be written to "
            f"({error}); make room or give permission, or choose other folders with results=FOLDER artifacts=FOLDER",
            file=sys.stderr,
        )
        raise SystemExit(USAGE_ERROR) from None
