"""A cell of a multirun in a process of its own: what ends that process, and be it ``kill -9``, ends nothing else.

    sweep or worker ── forkserver (torch and all imported, nothing computed) ── the cell ── its own workers, W&B

Cells are forked from a server that has the imports behind it, so a cell costs no import. Each is a process group, which
is killed as one; it ends with whoever runs it, also when that one is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from kto_bench.locks import tell_of_waiting
from kto_bench.machines import check_machines, machine_rank
from kto_bench.preemption import SIGNALS, Preempted, Preemption

if TYPE_CHECKING:
    from kto_bench.config import Config
    from kto_bench.record import Record
    from kto_bench.run import Plan

PRELOAD = ["kto_bench.preload"]
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 30.0
SECONDS_FOR_A_FREE_LOCK = 5.0
SERVER_GONE = 255
"""Exit status that ``multiprocessing`` gives a process whose server has died."""

CellState = Literal["done", "failed", "cached", "preempted"]


class CellError(RuntimeError):
    """The process of a cell ended without writing its record."""


class CellKilledError(CellError):
    """A signal ended it."""


class CellTimeoutError(CellError):
    """It took longer than ``timeout_minutes``."""


class _RemoteError(Exception):
    """The cause of an error that was raised in another process: its traceback there, as text."""


def prepare() -> None:
    """Start this process's server, which then imports while this process goes on. More calls change nothing."""
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # In a worker of joblib the default is called "loky", which a process without joblib cannot look up.
        multiprocessing.set_start_method("forkserver", force=True)
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    # Slurm signals all processes of a job. The server must outlive the cells that save, so it has the signals blocked;
    # a cell takes them once it can handle them, and none is lost in between.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # starting the tracker has lifted one
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_cell(config: Config, timeout_minutes: float | None = None) -> CellState:
    """``run.execute`` in a process of its own; where that ends without a word, the record is written here.

    "preempted": the cell was told to stop, and this process was not. If this process is told (SIGTERM, SIGUSR2), so is
    the cell, and when it has saved and ended, Preempted is raised. A cell that has worked for ``timeout_minutes`` is
    killed; waiting for what another process builds is no work.
    """
    from kto_bench.run import describe

    described, record = describe(config)
    if record.state() == "done":
        return "cached"
    with Preemption() as preemption, preemption.deferred(raises=False):
        cell = _Cell(config, timeout_minutes)
        trouble: CellError | None = None
        state: CellState = "failed"
        word = ""
        try:
            state, word = cell.wait(preemption)
        except CellError as error:
            trouble = error
        finally:
            cell.kill()  # before the record is written here: what is left of the cell may hold its locks
    if trouble is not None and not preemption.requested:
        state = _write_down(trouble, config, described, record)
    if preemption.requested:
        raise Preempted(word) if word else Preempted
    return state


class _Cell:
    """The process, as seen by the one that started it."""

    def __init__(self, config: Config, timeout_minutes: float | None) -> None:
        import torch

        from kto_bench.models import DIGESTS

        prepare()
        context = multiprocessing.get_context("forkserver")
        self._messages, sender = context.Pipe(duplex=False)
        self._minutes = timeout_minutes
        self._process = context.Process(
            target=_work,
            args=(config.plain, sender, Path.cwd(), dict(os.environ), torch.get_num_threads(), DIGESTS),
            name=multiprocessing.current_process().name,  # by which the screen knows whether bars would collide
        )
        self._process.start()
        sender.close()

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, preemption: Preemption) -> tuple[CellState, str]:
        """How it ended, and what it said of that. Raises CellError where it said nothing."""
        told, waiting_since = False, None
        deadline = None if self._minutes is None else time.monotonic() + 60 * self._minutes
        open_ends: list[Any] = [self._process.sentinel, self._messages]
        try:
            while True:
                ready = wait(open_ends, timeout=SECONDS_BETWEEN_LOOKS)
                if self._messages in ready:
                    try:
                        kind, value = self._messages.recv()
                    except (EOFError, OSError):
                        open_ends.remove(self._messages)
                        continue
                    if kind == "ended":
                        self._process.join(SECONDS_TO_END)  # W&B may have something left to write
                        return value
                    if kind == "raised":
                        raise CellError(value[0]) from _RemoteError(value[1])
                    now = time.monotonic()
                    if deadline is not None and waiting_since is not None:
                        deadline += now - waiting_since
                    waiting_since = now if value else None
                elif self._process.sentinel in ready:
                    raise self._reason(self._process.exitcode)
                if deadline is not None and waiting_since is None and time.monotonic() > deadline:
                    raise CellTimeoutError(f"timed out after {self._minutes:g} minutes (timeout_minutes)")
                if preemption.requested and not told:
                    told = True
                    os.kill(self.pid, signal.SIGTERM)
                if _orphaned():
                    raise Preempted("the process that launched this one is gone")
        except KeyboardInterrupt:
            os.kill(self.pid, signal.SIGINT)  # a group of its own: the terminal has not told it
            self._process.join(SECONDS_TO_END)
            raise

    def _reason(self, status: int | None) -> CellError:
        if status == SERVER_GONE:
            return CellKilledError("the server that cells are forked from was killed, and the cell with it")
        if status is None or status >= 0:
            return CellError(f"its process ended with exit status {status} and without a word")
        looks = ", which is what running out of memory looks like" if status == -signal.SIGKILL else ""
        return CellKilledError(f"killed by signal {-status} ({signal.Signals(-status).name}){looks}")

    def kill(self) -> None:
        """Whatever is left of its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()
        self._messages.close()


def _orphaned() -> bool:
    """Whether this is a worker whose own parent has died."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()


def _write_down(error: CellError, config: Config, described: Plan, record: Record) -> CellState:
    """Keep in the record what the cell itself could not, unless another launch has taken the run over since."""
    from kto_bench.run import lock_of
    from kto_bench.screen import Screen

    screen = Screen(described.name)
    if config.train.nodes > 1 and machine_rank() > 0:  # the record is the first machine's
        screen.say(f"FAILED: {error}")
        return "failed"
    lock = lock_of(config, described)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock).acquire(timeout=SECONDS_FOR_A_FREE_LOCK):
            state = record.state()
            if state == "done":
                return "done"
            if state != "running":
                record.start(described.labels, described.fingerprints, config.plain)
            record.failed(error)
        screen.say(f"FAILED: {error} (see {record.folder / 'status.json'})")
    except OSError as unwritable:  # also a lock that is not free
        screen.say(f"FAILED: {error}; the record does not say so: {unwritable}")
    return "failed"


def _work(
    plain: Mapping[str, Any],
    sender: Connection,
    folder: Path,
    environment: Mapping[str, str],
    threads: int,
    digests: Mapping[Any, str],
) -> None:
    """The process of a cell. It was forked from a server that knows only how things were when it was started."""
    os.setpgid(0, 0)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # The server ignores it, and so does what a shell starts in the background; whoever runs this cell passes it on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt), Preemption():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            import torch

            from kto_bench import models
            from kto_bench.config import resolve
            from kto_bench.run import execute

            models.DIGESTS.update(digests)
            torch.set_num_threads(threads)
            tell_of_waiting(lambda waiting: sender.send(("waiting", waiting)))
            config = resolve(plain)
            check_machines(config.train.nodes, config.processes)
            sender.send(("ended", (execute(config), "")))
        except Preempted as stop:
            sender.send(("ended", ("preempted", str(stop))))
        except Exception as error:
            summary = "".join(traceback.format_exception_only(error)).strip()
            sender.send(("raised", (summary, "".join(traceback.format_exception(error)))))


def _end_with(parent: int) -> None:
    """End this cell with the process that runs it: nobody would know of it, and a relaunch would wait for it."""
    wait([parent])
    os.killpg(0, signal.SIGKILL)
