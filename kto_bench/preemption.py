"""The signals by which a cluster takes a machine back: what is at work is told, saves, and ends as ``preempted``.

SIGTERM is everybody's. SIGUSR2 is what Slurm sends to the jobs of submitit before their time is over or on preemption.
Slurm sends either of them to every process of the job, not to the first one only.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM
"""Exit status of a command that was preempted: 143, what a shell reports of a process that SIGTERM ended."""


SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
SECONDS_BETWEEN_LOOKS = 0.2


class Preempted(BaseException):
    """One of the signals arrived. Not an Exception, so that nothing that forgives errors swallows it."""

    def __init__(self, message: str = "SIGTERM; the same command goes on from the last save") -> None:
        super().__init__(message)


class Preemption:
    """A context manager that turns the signals into ``Preempted``, raised at once or, ``deferred``, by whoever looks.

    Outside the main thread, where Python allows no handler, it does nothing. Contexts nest: the inner one is told. Once
    told, further signals change nothing, since clusters and launchers both send them, and cleaning up must end.
    """

    def __init__(self, *, workers: bool = False) -> None:
        """With ``workers``, child processes of ``multiprocessing`` get SIGTERM, if there are any.

        It is not raised here then: the children save and end first.
        """
        self.requested = False
        self._workers, self._depth, self._raised, self._installed = workers, 0, False, False
        self._before: dict[signal.Signals, Any] = {}
        self._told = signal.SIGTERM

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            for number, before in self._before.items():
                # None: a handler that was not installed from Python, and cannot be given back.
                signal.signal(number, signal.SIG_DFL if before is None else before)
            self._installed = False

    @contextmanager
    def deferred(self, *, raises: bool = True) -> Iterator[None]:
        """Within, a signal only sets ``requested``; if nobody raised Preempted by the end, it is raised there.

        With ``raises=False`` it is not: what was done within is whole, and someone above looks at ``requested``.
        """
        self._depth += 1
        try:
            yield
        except Preempted:
            self._raised = True
            raise
        finally:
            self._depth -= 1
        if raises and self.requested and not self._depth:
            self.check()

    def check(self) -> None:
        """Raise Preempted, once, if a signal arrived and this has not been raised yet."""
        if self.requested and not self._raised:
            self._raised = True
            raise Preempted(f"{self._told.name}; the same command goes on from the last save")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return
        self.requested, self._told = True, signal.Signals(number)
        if self._workers and multiprocessing.active_children():
            threading.Thread(target=_tell_children, daemon=True).start()
        elif not self._depth:
            self.check()


def _tell_children() -> None:
    """Pass SIGTERM on to every child that can save, as soon as it can, once.

    One that has not begun, or has nothing to do, would die of it, and joblib then kills all the others.
    """
    told: set[int] = set()
    while True:
        for child in multiprocessing.active_children():
            if child.pid is not None and child.pid not in told and _takes_sigterm(child.pid):
                told.add(child.pid)
                child.terminate()
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _takes_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM; taken for granted where the system does not say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return not Path("/proc/self/status").exists()
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@cache
def of_worker() -> Preemption:
    """The one that lasts as long as this worker process, also between its tasks."""
    return Preemption().__enter__()
