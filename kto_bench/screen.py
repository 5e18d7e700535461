"""What a person sees while a run goes on: one line per stage, with a progress bar where there is a terminal.

In the worker processes of a sweep, and in log files, bars would overwrite each other; there, stages report now and then
in plain lines that begin with the run's name.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kto_bench.heartbeat import Heartbeat

Advance = Callable[..., None]
SECONDS_BETWEEN_LINES = 15.0


class Screen:
    """Progress of one run."""

    def __init__(self, run: str, heartbeat: Heartbeat | None = None) -> None:
        """``run`` is the name that plain lines begin with; ``heartbeat`` is told what the screen is told."""
        self._run, self._heartbeat = run, heartbeat
        self._console = Console(stderr=True)
        self._bars = self._console.is_terminal and multiprocessing.current_process().name == "MainProcess"

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(f"[{self._run}] {text}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Show progress of one stage. Yields ``advance(done, total, note="")``."""
        started = time.monotonic()
        with self._bar(name) if self._bars else self._lines(name) as advance:
            yield advance if self._heartbeat is None else _told(self._heartbeat, name, advance)
        if self._heartbeat is not None:
            self._heartbeat.stage(None)
        self.say(f"{name}: done in {time.monotonic() - started:.1f} s")

    def waiting(self, what: str, holder: str) -> None:
        """Another process is at ``what``, and this one waits for it."""
        self.say(f"{what}: waiting for {holder} to finish it")
        if self._heartbeat is not None:
            self._heartbeat.waiting(what, holder)

    @contextmanager
    def _bar(self, name: str) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self._console, transient=True
        ) as progress:
            task = progress.add_task(name, total=None, note="")
            yield lambda done, total, note="": progress.update(task, completed=done, total=total, note=note)

    @contextmanager
    def _lines(self, name: str) -> Iterator[Advance]:
        self.say(f"{name}: started")
        last = time.monotonic()

        def advance(done: int, total: int, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last > SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                self.say(f"{name}: {done}/{total} {note}".rstrip())

        yield advance


def _told(heartbeat: Heartbeat, name: str, advance: Advance) -> Advance:
    """``advance`` that the heartbeat hears as well."""
    heartbeat.stage(name)

    def both(done: int, total: int, note: str = "") -> None:
        heartbeat.progress(done, total, note)
        advance(done, total, note)

    return both


class Remote:
    """The screen of a worker process: it tells the process that started it, which has the real one."""

    def __init__(self, report: Callable[[str, Any], None]) -> None:
        """``report(kind, value)`` is called with "say" and a text, or "advance" and (done, total, note)."""
        self._report = report

    def say(self, text: str) -> None:
        """One line."""
        self._report("say", text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Yields ``advance(done, total, note="")``; that the stage began and ended is known where it was started."""
        yield lambda done, total, note="": self._report("advance", (done, total, note))
