"""What a run leaves under ``results/``: small, text, complete; enough to redraw every figure with no checkpoint.

Files are written as things happen. ``status.json`` is written last when a run is done, so a record that says ``done``
is whole. Everything but ``status.json``, ``timing.json`` and ``environment.json`` is the same for the same work.

    (nothing) ──► pending ──► running ──► done
                     ▲           ├──────► failed      with retry=failed: pending
                     │           └──────► preempted   the next launch goes on with it
                  skipped                             a cell that was refused, until it can be run

A run that says ``running`` and is not (killed, power cut) is told by its heartbeat (``heartbeat.py``); the next launch
begins it again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kto_bench.divergence import is_diverged
from kto_bench.heartbeat import HEARTBEAT
from kto_bench.store import write_atomically

State = Literal["pending", "running", "done", "failed", "preempted", "skipped"]

LOSS_REPORT = "halo"
"""Name of the report of the losses, which needs no sweep (``kto-bench-report halo``): no sweep may have it."""
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "datasets",
    "hydra-core",
    "lm-eval",
    "alpaca-eval",
    "wandb",
)
OPTIONAL_PACKAGES = ("vllm",)


class Record:
    """The record of one run, in ``results/<sweep>/<run>/``."""

    def __init__(self, folder: Path, run: str, sweep: str, fingerprint: str) -> None:
        """Nothing is written until ``start``."""
        self.folder, self.fingerprint = folder, fingerprint
        self._run, self._sweep = run, sweep
        self._started: str | None = None

    def status(self) -> dict[str, Any] | None:
        """What ``status.json`` says of this very run, or None where there is no readable record of it."""
        try:
            status = json.loads((self.folder / "status.json").read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return status if isinstance(status, dict) and status.get("fingerprint") == self.fingerprint else None

    def state(self) -> str | None:
        """The state on disk of this very run, or None where there is no readable record of it."""
        status = self.status()
        return None if status is None else str(status.get("state"))

    @property
    def diverged(self) -> bool:
        """Whether the training failed through its own settings: of a trial of tuning, a result like any other."""
        return is_diverged(self.status() or {})

    def pending(self, labels: Mapping[str, Any], stages: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Announce the run. Why an earlier attempt failed stays readable until the next one begins."""
        before = self.status() or {}
        self._describe(labels, stages, config)
        kept = {key: before.get(key) for key in ("reason", "traceback")}
        self._status("pending", **kept, started=None, host=None, pid=None)

    def skipped(self, reason: str, labels: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Keep why the run was refused; nothing is written where that is on record already."""
        status = self.status()
        if status is None or (status.get("state"), status.get("reason")) != ("skipped", reason):
            self._describe(labels, {}, config)
            self._status("skipped", reason=reason, finished=_now())

    def start(self, labels: Mapping[str, Any], stages: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Begin afresh: what an earlier, unfinished attempt left behind is removed."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._started = _now()
        self._describe(labels, stages, config)
        self.write_json("environment.json", environment())
        self._status("running")

    def _describe(self, labels: Mapping[str, Any], stages: Mapping[str, str], config: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_json(
            "run.json", {"run": self._run, "sweep": self._sweep, "labels": dict(labels), "stages": dict(stages)}
        )
        self.write_json("config.json", config)

    def done(self) -> None:
        """The last thing that is written."""
        self._status("done", finished=_now())

    def failed(self, error: BaseException) -> None:
        """Keep the reason and the whole traceback."""
        reason = f"{type(error).__name__}: {error}"
        self._status("failed", reason=reason, traceback="".join(traceback.format_exception(error)), finished=_now())

    def preempted(self, reason: str) -> None:
        """Stopped from outside, through no fault of the run: a relaunch goes on with it."""
        self._status("preempted", reason=reason, finished=_now())

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file, atomically."""
        text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=str)
        write_atomically(self.folder / name, text + "\n")

    def _status(self, state: State, **more: Any) -> None:
        # Whoever writes the last word need not be the process that began the run, which may have died without one.
        started = self._started or (self.status() or {}).get("started")
        self.folder.mkdir(parents=True, exist_ok=True)
        if state != "running":
            (self.folder / HEARTBEAT).unlink(missing_ok=True)
        status = {
            "state": state,
            "run": self._run,
            "sweep": self._sweep,
            "fingerprint": self.fingerprint,
            "reason": None,
            "traceback": None,
            "started": started,
            "finished": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            **more,
        }
        self.write_json("status.json", status)


def environment() -> dict[str, Any]:
    """Where a run was made: interpreter, packages, platform, device, commit."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in [*PACKAGES, *filter(_has, OPTIONAL_PACKAGES)]},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
