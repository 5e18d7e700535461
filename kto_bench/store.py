"""The store of artifacts: fingerprints, locks, atomic commit, look-up.

A stage is one expensive step. Its fingerprint is a hash of its resolved configuration, the fingerprints of its inputs
and a hand-bumped version of its own code. Its folder is written beside its final place and renamed into it when whole,
under a lock, so a kill at any moment leaves nothing half-done and two workers never do the same work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kto_bench.machines import machine_rank

MANIFEST = "stage.json"
SECONDS_FOR_THE_FIRST_MACHINE = 1800
PARTIAL = ".partial-"


def fingerprint_of(value: Any) -> str:
    """The first 24 hex digits of the SHA-256 of ``value`` as canonical JSON. Raises TypeError on what JSON has not."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Stage:
    """One expensive step, described completely before anything is computed.

    ``config`` holds what changes the answer and nothing else. ``build(folder, inputs)`` fills an empty folder, given
    the folders of the inputs. ``version`` is raised by hand when the code of the stage changes its answer.
    """

    name: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Stage]
    build: Callable[[Path, dict[str, Path]], None] = field(compare=False)
    machines: int = field(default=1, compare=False)
    """How many machines build it together: ``build`` is called on each, and the first one keeps what it makes."""

    @cached_property
    def fingerprint(self) -> str:
        """What the artifact is called: equal for equal work, different for different work."""
        return fingerprint_of(
            {
                "stage": self.name,
                "version": self.version,
                "config": dict(self.config),
                "inputs": {name: stage.fingerprint for name, stage in self.inputs.items()},
            }
        )


@dataclass(frozen=True)
class Fetched:
    """Where an artifact lies, how long it took to build, and whether it was there already."""

    folder: Path
    wall_seconds: float
    cached: bool


class Store:
    """Artifacts under ``root/<stage>/<fingerprint>/``; safe under ``kill -9`` and any number of processes."""

    def __init__(self, root: Path, on_wait: Callable[[Stage, str], None] = lambda stage, holder: None) -> None:
        """``on_wait(stage, holder)`` is called once when another process is found to be building ``stage``."""
        self.root = root
        self._on_wait = on_wait

    def folder(self, stage: Stage) -> Path:
        """Where the artifact of ``stage`` lies once it is whole."""
        return self.root / stage.name / stage.fingerprint

    def has(self, stage: Stage) -> bool:
        """Whether the artifact is there, whole."""
        return (self.folder(stage) / MANIFEST).exists()

    def fetch(self, stage: Stage) -> Fetched:
        """The artifact of ``stage``, built now (its inputs first) if it is not there.

        Whatever ``stage.build`` raises comes through; nothing is left behind then.
        """
        if self.has(stage):
            return self._found(stage, cached=True)
        folder = self.folder(stage)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inputs before our own lock: whoever waits for us must not also hold up those who only need the inputs.
        inputs = {name: self.fetch(wanted).folder for name, wanted in stage.inputs.items()}
        if stage.machines > 1 and machine_rank() > 0:
            return self._join(stage, inputs)
        with locked(folder.with_suffix(".lock"), lambda holder: self._on_wait(stage, holder)):
            if self.has(stage):
                return self._found(stage, cached=True)
            self._build(stage, folder, inputs)
            return self._found(stage, cached=False)

    def _join(self, stage: Stage, inputs: dict[str, Path]) -> Fetched:
        """Do this machine's part of what the first one builds, and wait until that has put it in its place."""
        folder = self.folder(stage)
        stage.build(folder.with_name(f"{folder.name}{PARTIAL}elsewhere"), inputs)
        deadline = time.monotonic() + SECONDS_FOR_THE_FIRST_MACHINE
        while not self.has(stage):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{stage.name}: this machine's part is done, but the first machine has not made {folder} in "
                    f"{SECONDS_FOR_THE_FIRST_MACHINE} s; look at its messages, and check that both see one file system"
                )
            time.sleep(0.2)
        return self._found(stage, cached=False)

    def _found(self, stage: Stage, cached: bool) -> Fetched:
        folder = self.folder(stage)
        # Also where the artifact was there already: whoever built it may have been killed right before this.
        if stage.machines == 1 or machine_rank() == 0:
            shutil.rmtree(saved_beside(folder), ignore_errors=True)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Fetched(folder, manifest["wall_seconds"], cached)

    def _build(self, stage: Stage, folder: Path, inputs: dict[str, Path]) -> None:
        # We hold the lock, so any other partial folder of this artifact belongs to a process that was killed.
        for leftover in folder.parent.glob(f"{folder.name}{PARTIAL}*"):
            shutil.rmtree(leftover)
        partial = folder.with_name(f"{folder.name}{PARTIAL}{os.getpid()}")
        partial.mkdir()
        started = time.monotonic()
        try:
            stage.build(partial, inputs)
            manifest = {
                "stage": stage.name,
                "fingerprint": stage.fingerprint,
                "version": stage.version,
                "config": dict(stage.config),
                "inputs": {name: wanted.fingerprint for name, wanted in stage.inputs.items()},
                "wall_seconds": round(time.monotonic() - started, 3),
            }
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
            for path in [*partial.rglob("*"), partial]:
                sync(path)
            partial.rename(folder)
            sync(folder.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def saved_beside(partial: Path) -> Path:
    """Where a stage that is being built in ``partial`` may keep what shall survive a kill or a failure.

    ``artifacts/<stage>/<fingerprint>.saved``, whichever process builds it. It is not made here, and the store removes
    it once the artifact is whole. Under the artifact's lock, so only one process at a time uses it.
    """
    fingerprint, _, _ = partial.name.partition(PARTIAL)
    return partial.with_name(f"{fingerprint}.saved")


def locked(path: Path, on_wait: Callable[[str], None]) -> FileLock:
    """Take the lock at ``path``, waiting as long as it takes; release it by leaving it as a context manager.

    ``on_wait(holder)`` is called once if another process holds it. The operating system frees the lock of a killed one.
    """
    holder, lock = path.with_suffix(".holder"), FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        on_wait(holder.read_text(encoding="utf-8") if holder.exists() else "another process")
        lock.acquire(poll_interval=0.2)
    holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return lock


def sync(path: Path) -> None:
    """Force a file or folder to the disk, so that what is renamed next is whole even after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replace the file at ``path`` by ``text`` in one step: a reader sees the old content or the new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)
