"""The store of artifacts: fingerprints, locks, atomic commit, look-up.

A stage is one expensive step. Its fingerprint is a hash of its resolved configuration, the fingerprints of its inputs
and a hand-bumped version of its own code. Its folder is written beside its final place and renamed into it when whole,
under a lock, so a kill at any moment leaves nothing half-done and two workers never do the same work. Its manifest
holds the checksum of every file, by which a damaged artifact is found when it is fetched, set aside and built again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kto_bench.checksums import MANIFEST, checksums, damage_of, mark_whole, read_manifest
from kto_bench.locks import locked
from kto_bench.machines import machine_rank

SECONDS_FOR_THE_FIRST_MACHINE = 1800
PARTIAL = ".partial-"
DAMAGED = ".damaged"


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
    part: str = field(default="", compare=False)
    """Which of several stages of this name in one run it is: a word for people, and no part of the fingerprint."""

    @property
    def label(self) -> str:
        """What a run calls it: ``name``, or ``name/part``."""
        return f"{self.name}/{self.part}" if self.part else self.name

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

    def __init__(
        self,
        root: Path,
        on_wait: Callable[[Stage, str], None] = lambda stage, holder: None,
        on_damage: Callable[[Stage, str], None] = lambda stage, damage: None,
    ) -> None:
        """``on_wait(stage, holder)`` is called once when another process is found to be building ``stage``.

        ``on_damage(stage, damage)`` is called when its artifact was found damaged and set aside, to be built again.
        """
        self.root = root
        self._on_wait, self._on_damage = on_wait, on_damage

    def folder(self, stage: Stage) -> Path:
        """Where the artifact of ``stage`` lies once it is whole."""
        return self.root / stage.name / stage.fingerprint

    def has(self, stage: Stage) -> bool:
        """Whether the artifact has been built. Its content is not looked at; ``fetch`` does that."""
        return (self.folder(stage) / MANIFEST).exists()

    def fetch(self, stage: Stage) -> Fetched:
        """The artifact of ``stage``, built now (its inputs first) if it is not there whole.

        Whatever ``stage.build`` raises comes through; nothing is left behind then. A full disk is an OSError.
        """
        if self._is_whole(stage):
            return self._found(stage, cached=True)
        folder = self.folder(stage)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Inputs before our own lock: whoever waits for us must not also hold up those who only need the inputs.
        inputs = {name: self.fetch(wanted).folder for name, wanted in stage.inputs.items()}
        if stage.machines > 1 and machine_rank() > 0:
            return self._join(stage, inputs)
        with locked(folder.with_suffix(".lock"), lambda holder: self._on_wait(stage, holder)):
            if self._is_whole(stage):
                return self._found(stage, cached=True)
            if folder.exists():
                self._set_aside(stage)
            self._build(stage, folder, inputs)
            return self._found(stage, cached=False)

    def _is_whole(self, stage: Stage) -> bool:
        return self.has(stage) and damage_of(self.folder(stage)) is None

    def _set_aside(self, stage: Stage) -> None:
        """Move away what lies in the place of the artifact of ``stage``: somebody may want to know what happened."""
        folder, number = self.folder(stage), 1
        aside = folder.with_name(folder.name + DAMAGED)
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{folder.name}{DAMAGED}-{number}")
        damage = damage_of(folder)
        folder.rename(aside)
        self._on_damage(stage, f"{damage}; moved to {aside}, and built again")

    def _join(self, stage: Stage, inputs: dict[str, Path]) -> Fetched:
        """Do this machine's part of what the first one builds, and wait until that has put it in its place."""
        folder = self.folder(stage)
        stage.build(folder.with_name(f"{folder.name}{PARTIAL}elsewhere"), inputs)
        deadline = time.monotonic() + SECONDS_FOR_THE_FIRST_MACHINE
        while not self.has(stage):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{stage.label}: this machine's part is done, but the first machine has not made {folder} in "
                    f"{SECONDS_FOR_THE_FIRST_MACHINE} s; look at its messages, and check that both see one file system"
                )
            time.sleep(0.2)
        return self._found(stage, cached=False)

    def _found(self, stage: Stage, cached: bool) -> Fetched:
        folder = self.folder(stage)
        # Also where the artifact was there already: whoever built it may have been killed right before this.
        if stage.machines == 1 or machine_rank() == 0:
            shutil.rmtree(saved_beside(folder), ignore_errors=True)
        return Fetched(folder, read_manifest(folder)["wall_seconds"], cached)

    def _build(self, stage: Stage, folder: Path, inputs: dict[str, Path]) -> None:
        # We hold the lock, so any other partial folder of this artifact belongs to a process that was killed.
        for leftover in folder.parent.glob(f"{folder.name}{PARTIAL}*"):
            shutil.rmtree(leftover)
        partial = folder.with_name(f"{folder.name}{PARTIAL}{os.getpid()}")
        started = time.monotonic()
        try:
            partial.mkdir()
            stage.build(partial, inputs)
            manifest = {
                "stage": stage.name,
                "fingerprint": stage.fingerprint,
                "version": stage.version,
                "config": dict(stage.config),
                "inputs": {name: wanted.fingerprint for name, wanted in stage.inputs.items()},
                "wall_seconds": round(time.monotonic() - started, 3),
                "files": checksums(partial),
            }
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
            for path in [*partial.rglob("*"), partial]:
                sync(path)
            self._commit(stage, partial, folder)
        except BaseException as error:
            full = isinstance(error, Exception) and not isinstance(error, OSError) and is_full(folder.parent)
            shutil.rmtree(partial, ignore_errors=True)
            if full:  # libraries tell it in words of their own, or not at all
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial)) from error
            raise

    def _commit(self, stage: Stage, partial: Path, folder: Path) -> None:
        try:
            partial.rename(folder)
        except OSError:
            if not self.has(stage):
                raise
            shutil.rmtree(partial)  # another host, which the lock did not keep out, was first: the same work
        sync(folder.parent)
        mark_whole(folder)  # it has just been read to take its checksums


def saved_beside(partial: Path) -> Path:
    """Where a stage that is being built in ``partial`` may keep what shall survive a kill or a failure.

    ``artifacts/<stage>/<fingerprint>.saved``, whichever process builds it. It is not made here, and the store removes
    it once the artifact is whole. Under the artifact's lock, so only one process at a time uses it.
    """
    fingerprint, _, _ = partial.name.partition(PARTIAL)
    return partial.with_name(f"{fingerprint}.saved")


def is_full(folder: Path) -> bool:
    """Whether the disk that holds ``folder`` has no room left."""
    return shutil.disk_usage(folder).free < 2**16


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
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
