"""SIGTERM, by which a cluster takes a machine back: what is at work is told, saves, and ends as ``preempted``."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType, TracebackType
from typing import Any

EXIT_STATUS = 128 + signal.SIGTERM
"""Exit status of a command that was preempted: 143, what a shell reports of a process that SIGTERM ended."""


class Preempted(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing that forgives errors swallows it."""

    def __init__(self, message: str = "SIGTERM; the same command goes on from the last save") -> None:
        super().__init__(message)


class Preemption:
    """A context manager that turns SIGTERM into ``Preempted``, raised at once or, while ``deferred``, by whoever looks.

    Outside the main thread, where Python allows no handler, it does nothing. Contexts nest: the inner one is told.
    Once told, further SIGTERMs change nothing, since clusters and launchers both send them, and cleaning up must end.
    """

    def __init__(self, *, workers: bool = False) -> None:
        """With ``workers``, SIGTERM goes on to child processes of ``multiprocessing`` if there are any.

        It is not raised here then: the children save and end first.
        """
        self.requested = False
        self._workers, self._depth, self._raised, self._installed = workers, 0, False, False
        self._before: Any = None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            # None: a handler that was not installed from Python, and cannot be given back.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._installed = False

    @contextmanager
    def deferred(self, *, raises: bool = True) -> Iterator[None]:
        """Within, SIGTERM only sets ``requested``; if nobody raised Preempted by the end, it is raised there.

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
        """Raise Preempted, once, if SIGTERM arrived and this has not been raised yet."""
        if self.requested and not self._raised:
            self._raised = True
            raise Preempted

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            return
        self.requested = True
        children = multiprocessing.active_children() if self._workers else []
        for child in children:
            child.terminate()
        if not children and not self._depth:
            self.check()


@cache
def of_worker() -> Preemption:
    """The one that lasts as long as this worker process, also between its tasks."""
    return Preemption().__enter__()
