"""``kto-bench-status``: where a sweep stands, told by its records and heartbeats, wherever it runs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kto_bench.divergence import is_diverged
from kto_bench.estimate import Cell, Estimate, History, duration, estimate, read_object
from kto_bench.heartbeat import HEARTBEAT, file_system_time, is_stale

STATES = ("running", "stale", "failed", "preempted", "unreadable", "pending", "skipped", "lost", "done")
"""In the order in which they are shown. Stale: on record as running, but the process or its heartbeat is gone. Lost: a
trial of tuning whose training diverged, which is a result."""
STYLES = {"done": "green", "failed": "bold red", "unreadable": "red", "stale": "yellow", "running": "cyan"}
UNFINISHED = ("running", "stale", "pending", "preempted", "unreadable")
WHY = "stage, or why"
WIDTH_OF_A_FILE = 200
USAGE_ERROR = 2
SECONDS_BETWEEN_LOOKS = 2.0


class StatusError(ValueError):
    """A sweep that is not there. The message says where it was looked for and what there is."""


@dataclass(frozen=True)
class Run:
    """One cell of a sweep as it stands. Any file of its record may be missing or damaged."""

    folder: Path
    state: str
    labels: dict[str, Any]
    stages: dict[str, str]
    status: dict[str, Any]
    heartbeat: dict[str, Any]
    artifacts: Path
    """Where its stages are kept."""

    @classmethod
    def read(cls, folder: Path, now: float, artifacts: Path | None = None) -> Run:
        """``now`` is by the clock of the file system; ``artifacts`` where that is not what the configuration says."""
        run, status = read_object(folder / "run.json"), read_object(folder / "status.json")
        state = status.get("state")
        if state not in STATES or not isinstance(run.get("labels"), dict):
            state = "unreadable"
        elif state == "running" and is_stale(folder, status, now):
            state = "stale"
        elif run["labels"].get("role") == "trial" and is_diverged(status):
            state = "lost"
        labels, stages = run.get("labels"), run.get("stages")
        return cls(
            folder,
            state,
            labels if isinstance(labels, dict) else {},
            {str(name): str(one) for name, one in stages.items()} if isinstance(stages, dict) else {},
            status,
            read_object(folder / HEARTBEAT) if state == "running" else {},
            artifacts or Path(str(read_object(folder / "config.json").get("artifacts", "artifacts"))),
        )

    @property
    def reason(self) -> str:
        """Why it failed, was refused or stopped, in one line; empty where there is nothing to say."""
        if self.state == "unreadable":
            return "the record is damaged; launch the sweep again to redo this run"
        if self.state == "stale":
            return "its process is gone, or shows no sign of life; launch the sweep again to go on with it"
        reason = str(self.status.get("reason") or "").strip()
        return reason.splitlines()[0] if reason else ""

    @property
    def doing(self) -> str:
        """The stage with its progress, and what it waits for."""
        beat = self.heartbeat
        parts = [str(beat["stage"])] if beat.get("stage") else []
        if isinstance(beat.get("done"), int) and isinstance(beat.get("total"), int):
            parts.append(f"{beat['done']}/{beat['total']}")
        if beat.get("note"):
            parts.append(str(beat["note"]))
        if beat.get("waiting_for"):
            parts.append(f"waits for {beat['waiting_for']}")
        return " ".join(parts)

    @property
    def seconds(self) -> float | None:
        """How long it has run, or ran."""
        if self.state == "running":
            return _number(self.heartbeat.get("run_seconds"))
        try:
            started, finished = (datetime.fromisoformat(self.status[key]) for key in ("started", "finished"))
            return max(0.0, (finished - started).total_seconds())
        except (KeyError, TypeError, ValueError):
            return None

    def work(self, history: History) -> Cell:
        """What is left to do, for an estimate."""
        beat = self.heartbeat
        at = None if beat.get("waiting_for") else beat.get("stage")
        return Cell(self.labels, self.stages, at, self._left_of_stage(history) if at else None)

    def _left_of_stage(self, history: History) -> float | None:
        done, total = _number(self.heartbeat.get("done")), _number(self.heartbeat.get("total"))
        spent = _number(self.heartbeat.get("stage_seconds"))
        if spent is not None and done and total and done <= total:
            return spent * (total - done) / done
        whole = history.seconds(str(self.heartbeat.get("stage")), self.labels)
        return None if whole is None or spent is None else max(0.0, whole - spent)


@dataclass(frozen=True)
class SweepStatus:
    """A sweep as it stands."""

    name: str
    folder: Path
    runs: list[Run]
    left: dict[Path, Estimate]
    """Of each unfinished run, by its folder."""
    total_left: Estimate

    @classmethod
    def read(cls, folder: Path, artifacts: Path | None = None) -> SweepStatus:
        """Read every record of the sweep."""
        folders = _runs_in(folder)
        statuses = [read_object(path / "status.json").get("state") for path in folders]
        now = file_system_time(folder) if "running" in statuses else 0.0
        runs = [Run.read(path, now, artifacts) for path in folders]
        runs.sort(key=lambda run: (STATES.index(run.state), run.folder.name))
        unfinished = [run for run in runs if run.state in UNFINISHED]
        histories: dict[Path, History] = {}
        for run in unfinished:
            if run.artifacts not in histories:
                histories[run.artifacts] = History(run.artifacts, folder.parent)
        work = {run.folder: run.work(histories[run.artifacts]) for run in unfinished}
        left = {run.folder: estimate([work[run.folder]], histories[run.artifacts]) for run in unfinished}
        workers = sum(run.state == "running" and not run.heartbeat.get("waiting_for") for run in runs)
        totals = [
            estimate([work[run.folder] for run in unfinished if run.artifacts == place], history, workers)
            for place, history in histories.items()
        ]
        total = Estimate(
            sum(one.work for one in totals),
            sum(one.wall for one in totals),
            sum((Counter(one.unknown) for one in totals), Counter()),
            any(one.rough for one in totals),
        )
        return cls(folder.name, folder, runs, left, total)

    @property
    def totals(self) -> dict[str, int]:
        """How many runs are in each state that there is."""
        counts = Counter(run.state for run in self.runs)
        return {state: counts[state] for state in STATES if counts[state]}

    @property
    def finished(self) -> bool:
        """Whether nothing is left that might change by itself."""
        return not any(run.state in ("running", "pending") for run in self.runs)

    def plain(self) -> dict[str, Any]:
        """For programs, as JSON values. Seconds left are a lower bound where ``left_unknown`` counts any stage, and
        ``left_rough`` where they go by other models."""
        return {
            "sweep": self.name,
            "folder": str(self.folder),
            "totals": self.totals,
            "seconds_left": round(self.total_left.wall, 1),
            "left_unknown": dict(self.total_left.unknown),
            "left_rough": self.total_left.rough,
            "cells": [self._plain(run) for run in self.runs],
        }

    def _plain(self, run: Run) -> dict[str, Any]:
        left = self.left.get(run.folder)
        beat = run.heartbeat
        return {
            "run": run.folder.name,
            **{name: run.labels.get(name) for name in ("loss", "start", "model", "feedback", "seed")},
            "labels": run.labels,
            "state": run.state,
            "stage": beat.get("stage"),
            "done": beat.get("done"),
            "total": beat.get("total"),
            "note": beat.get("note") or None,
            "waiting_for": beat.get("waiting_for"),
            "host": run.status.get("host"),
            "pid": run.status.get("pid"),
            "seconds": run.seconds,
            "seconds_left": None if left is None else round(left.wall, 1),
            "left_unknown": {} if left is None else dict(left.unknown),
            "left_rough": left is not None and left.rough,
            "reason": run.reason or None,
            "traceback_in": str(run.folder / "status.json") if run.status.get("traceback") else None,
            "started": run.status.get("started"),
            "finished": run.status.get("finished"),
        }

    def table(self) -> RenderableType:
        """For people."""
        table = Table(title=f"sweep {self.name}", title_justify="left")
        rows = [self._row(run) for run in self.runs]
        for name in ("run", "state", WHY, "host", "time", "left"):
            table.add_column(name, no_wrap=name != WHY)  # on a narrow terminal it is the longest text that is cut
        for row in rows:
            table.add_row(*row)
        totals = ", ".join(f"{count} {state}" for state, count in self.totals.items())
        left = "" if not self.left else f"; left: {self.total_left}"
        lines = [Text(f"{len(self.runs)} cells: {totals}{left}")]
        failed = [run for run in self.runs if run.status.get("traceback") and run.state == "failed"]
        if failed:
            lines += [Text(f"failed: {run.folder.name}: {run.reason}") for run in failed]
            lines.append(Text(f"tracebacks: status.json in each run's folder under {self.folder}"))
        return Group(table, *lines)

    def _row(self, run: Run) -> list[Text]:
        host = run.status.get("host") if run.state in ("running", "stale", "failed", "preempted") else None
        return [
            Text(run.folder.name),
            Text(run.state, STYLES.get(run.state, "")),
            Text(run.doing if run.state == "running" else run.reason, no_wrap=True, overflow="ellipsis"),
            Text(str(host or "")),
            Text("" if run.seconds is None else duration(run.seconds)),
            Text(self._shown_left(run)),
        ]

    def _shown_left(self, run: Run) -> str:
        left = self.left.get(run.folder)
        if left is None:
            return ""
        if left.unknown:
            return f"> {duration(left.wall)}" if left.wall else "?"
        return duration(left.wall)


def find(sweep: str | None, results: Path) -> Path:
    """The folder of a sweep, or of the one with the newest record. Raises StatusError where there is none."""
    there = [path for root in (results, results / "reference") if root.is_dir() for path in root.iterdir()]
    sweeps = [path for path in there if path.is_dir() and path.name != "reference" and _runs_in(path)]
    if sweep is not None:
        sweeps = [path for path in sweeps if path.name == sweep]
    if sweeps:
        return sweeps[0] if sweep is not None else max(sweeps, key=_newest)
    names = ", ".join(sorted(path.name for path in there if path.is_dir() and path.name != "reference")) or "none"
    what = "there is no sweep" if sweep is None else f"there is no sweep {sweep!r}"
    raise StatusError(
        f"{what} under {results} (looked in {Path.cwd()}); sweeps there: {names}. Name one of them, give another "
        "folder with --results, or launch one with kto-bench -m"
    )


def _runs_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if (path / "run.json").is_file() or (path / "status.json").is_file()
    )


def _newest(sweep: Path) -> float:
    times = [0.0]
    for path in sweep.glob("*/status.json"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # a run that begins anew, this very moment
            continue
    return max(times)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """``kto-bench-status``: 0, 1 if any run failed, 2 where there is no such sweep."""
    parser = argparse.ArgumentParser(
        prog="kto-bench-status",
        description="Where a sweep stands: state, progress and time left of each cell, and what failed and why.",
        epilog="Exit status: 0; 1 if any cell failed; 2 if there is no such sweep.",
    )
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="its name (default: the one with the newest record)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where records are (default: %(default)s)"
    )
    parser.add_argument("--artifacts", type=Path, help="where artifacts are (default: what each record says)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="for programs: one JSON object")
    shown.add_argument("--watch", action="store_true", help="go on showing it until no cell is running or pending")
    chosen = parser.parse_args(arguments)
    try:
        folder = find(chosen.sweep, chosen.results)
        status = SweepStatus.read(folder, chosen.artifacts)
        if chosen.json:
            print(json.dumps(status.plain(), indent=2, ensure_ascii=False, default=str))
        elif chosen.watch:
            status = _watch(folder, status, chosen.artifacts)
        else:
            Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE).print(status.table())
    except StatusError as error:
        print(f"kto-bench-status: {error}", file=sys.stderr)
        return USAGE_ERROR
    return 1 if "failed" in status.totals else 0


def _watch(folder: Path, status: SweepStatus, artifacts: Path | None) -> SweepStatus:
    with Live(status.table(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        try:
            while not status.finished:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                status = SweepStatus.read(folder, artifacts)
                live.update(status.table(), refresh=True)
        except KeyboardInterrupt:
            pass
    return status


if __name__ == "__main__":
    raise SystemExit(main())
