"""The heartbeat of a run: that it is alive, and what it is at.

While a run goes on, a thread rewrites ``heartbeat.json`` in its folder every few seconds. Whether it is old is judged
by the clock of the file system that it lies on, so clocks of hosts that differ or are set back do not matter. On the
host of the run a process that is gone is told at once.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

HEARTBEAT = "heartbeat.json"
SECONDS_BETWEEN_BEATS = 5.0
SECONDS_UNTIL_STALE = 120.0
"""Well over the minute for which network file systems may show other hosts an old time."""


class Heartbeat:
    """A context manager around a run that is at work. It never fails the run: what cannot be written is left out."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the run's, and exists."""
        self._folder = folder
        self._began = self._stage_began = time.monotonic()
        self._now: dict[str, Any] = {"stage": None, "done": None, "total": None, "note": "", "waiting_for": None}
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            (self._folder / HEARTBEAT).unlink(missing_ok=True)

    def stage(self, name: str | None) -> None:
        """The run begins a stage, or is between two."""
        self._stage_began = time.monotonic()
        self._now = {"stage": name, "done": None, "total": None, "note": "", "waiting_for": None}
        self._write()

    def progress(self, done: int, total: int, note: str = "") -> None:
        """How far the stage is; shown with the next beat."""
        self._now = {**self._now, "done": done, "total": total, "note": note}

    def waiting(self, stage: str, holder: str) -> None:
        """The run waits for ``holder`` to finish ``stage``."""
        self.stage(stage)
        self._now = {**self._now, "waiting_for": holder}
        self._write()

    def _beat(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN_BEATS):
            self._write()

    def _write(self) -> None:
        """Without forcing it to the disk: after a power cut nobody asks."""
        now = time.monotonic()
        value = {
            **self._now,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_namespace": pid_namespace(),
            "run_seconds": round(now - self._began, 1),
            "stage_seconds": round(now - self._stage_began, 1),
        }
        partial = self._folder / f".{HEARTBEAT}.{os.getpid()}"
        with self._lock, suppress(OSError):
            partial.write_text(json.dumps(value), encoding="utf-8")
            partial.replace(self._folder / HEARTBEAT)


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether the process that ``host``, ``pid`` and ``pid_namespace`` name lived here and is gone."""
    pid = process.get("pid")
    if process.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    # Containers may share a host's name and not its processes.
    if process.get("pid_namespace", pid_namespace()) != pid_namespace():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's
        return False
    return False


def is_stale(folder: Path, status: Mapping[str, Any], now: float) -> bool:
    """Whether a run that ``status`` calls running is not, at ``now`` by the clock of its file system."""
    try:
        process = json.loads((folder / HEARTBEAT).read_bytes())
    except (OSError, ValueError):
        process = status
    if is_gone(process if isinstance(process, dict) else status):
        return True
    return min(age(folder / name, now) for name in (HEARTBEAT, "status.json")) > SECONDS_UNTIL_STALE


def age(path: Path, now: float) -> float:
    """Seconds since ``path`` was written, at ``now`` of its file system; infinite where there is no such file."""
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return float("inf")


def file_system_time(folder: Path) -> float:
    """The present time by the clock of the file system of ``folder``, or by ours where we may not write there."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
            file.write(b"\n")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def pid_namespace() -> str | None:
    """What tells the process ids of containers on one host apart; None where there is no such thing."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
