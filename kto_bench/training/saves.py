"""States of a training, from which it goes on after a kill as if it had never been stopped.

A state is one folder, which is renamed into place when it is whole::

    step-00000120/
      state/             weights and optimiser, by torch.distributed.checkpoint: any number of processes can read it
      random-0.json      random states of process 0; one file per process
      progress.json      step and learning-rate schedule
      files/             copies of files that grow with the training
      manifest.json      size in bytes and SHA-256 of every other file; written last
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kto_bench.store import sync
from kto_bench.training.kept import KEPT as KEPT_POLICIES
from kto_bench.training.processes import in_a_group
from kto_bench.training.random_state import random_state, set_random_state

T = TypeVar("T")
KEPT = 2
"""States that are kept: the newest, and one more in case the newest is damaged."""
MANIFEST = "manifest.json"
# Frozen parameters (all but the adapters, with LoRA) come with the checkpoint that is trained, so the model cannot be
# loaded strictly. torch.distributed.checkpoint has by then refused a state in which anything else is missing.
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class SaveError(RuntimeError):
    """A state that cannot be written or read. The message names the folder and says what to do."""


class Saves:
    """The newest states of one training, in one folder that all its processes see."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """``folder`` is made by the first save. ``say`` hears, in the first process, where training goes on."""
        self._folder, self._say = folder, say

    def save(
        self, step: int, module: torch.nn.Module, optimiser: Optimizer, scheduler: LRScheduler, files: Sequence[Path]
    ) -> None:
        """Save the state after ``step >= 1`` with copies of ``files``; older states than the newest two are deleted.

        Every process calls it, with ``module`` bare, in DDP, or sharded by fully_shard; frozen parameters are left out.
        Raises SaveError on every process if it fails on any; then nothing is left behind, and the last state is kept.
        """
        final = self._folder / f"step-{step:08}"
        if self._first_says(final.exists) and self._damage(final) is None:
            return  # the very same state, which must not be out of place for a moment
        partial = final.with_suffix(".partial")
        needed = 0
        try:
            self._first_says(lambda: self._begin(partial))
            state: dict[str, Any] = {}
            _together(lambda: state.update(_state_of(module, optimiser)))
            needed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))
            _together(lambda: _write(partial / "state", state))
            _together(lambda: _write_json(partial / f"random-{_rank()}.json", random_state()))
            self._first_says(lambda: _write_progress(partial, step, scheduler, files))
            parts = _together(lambda: {_name(path, partial): _seal(path) for path in _own(partial)})
            self._first_says(lambda: self._finish(partial, final, {k: v for part in parts for k, v in part.items()}))
        except BaseException as error:
            if _rank() == 0:
                _discard(partial)
            if not isinstance(error, SaveError):
                raise
            free = shutil.disk_usage(next(path for path in self._folder.absolute().parents if path.exists())).free
            kept = max((_step(path) for path in self._states()), default=None)
            raise SaveError(
                f"the state of step {step} could not be written to {self._folder}: {error}. A state takes "
                f"{_gigabytes(needed)} and {_gigabytes(free)} are free there; if that is too little, free some or set "
                "`artifacts` to a folder on a larger disk. "
                + ("No older state is there" if kept is None else f"The state of step {kept} is kept")
            ) from error

    def load(self, module: torch.nn.Module, optimiser: Optimizer, scheduler: LRScheduler, into: Path) -> int:
        """Restore the newest state that is whole, and put its files into the folder ``into``. Returns its step.

        Returns 0, with nothing changed, if there is none. Damaged states are told about and left alone. Every process
        calls it, before the optimiser's first step; their number may differ from that of the save, and processes for
        which no random state was saved keep their own. Raises SaveError for a whole state of another model.
        """
        complaints = []
        found = None
        for path in self._first_says(self._states):
            damage = self._damage(path)
            if damage is None:
                found = path
                break
            complaints.append(f"{path} is damaged ({damage})")
        step = 0 if found is None else self._restore(found, module, optimiser, scheduler, into)
        if _rank() == 0 and (complaints or step):
            outcome = (
                f"training goes on from step {step}" if step else "no other state is there, training starts afresh"
            )
            self._say("; ".join([*complaints, outcome]))
        return step

    def _states(self) -> list[Path]:
        """The newest first, whole or damaged."""
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if _is_state(path)), key=_step, reverse=True)

    def _begin(self, partial: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.iterdir():  # of processes that were killed
            if not _is_state(leftover) and leftover.name != KEPT_POLICIES:
                _discard(leftover)
        partial.mkdir()

    def _finish(self, partial: Path, final: Path, files: Mapping[str, Any]) -> None:
        _write_json(partial / MANIFEST, {"files": files})
        sync(partial / MANIFEST)
        for folder in [*(path for path in partial.rglob("*") if path.is_dir()), partial]:
            sync(folder)
        if final.exists():
            _discard(final)
        partial.rename(final)
        sync(self._folder)
        # What was saved after this step was damaged, or training would have gone on from there.
        good = [path for path in self._states() if _step(path) <= _step(final)]
        for path in self._states():
            if path not in good[:KEPT]:
                _discard(path)

    def _damage(self, state: Path) -> str | None:
        """What is wrong with a state, None if nothing is. The processes share the reading."""
        problems = _together(lambda: _problem(state, _rank(), _count()))
        return next((problem for problem in problems if problem), None)

    def _restore(
        self, path: Path, module: torch.nn.Module, optimiser: Optimizer, scheduler: LRScheduler, into: Path
    ) -> int:
        try:
            progress, states = _together(lambda: _read_progress(path))[_rank()]
            _together(lambda: _read(path / "state", module, optimiser))
            _together(lambda: _restore_rest(scheduler, progress["schedule"], states))
            self._first_says(lambda: _copy(sorted((path / "files").iterdir()), into))
        except SaveError as error:
            # Weights may have been overwritten by now: neither an older state nor a fresh start is safe.
            raise SaveError(
                f"the state in {path} is whole, but cannot be restored: {error}; delete {self._folder} to train afresh"
            ) from error
        return int(progress["step"])

    def _first_says(self, action: Callable[[], T]) -> T:
        """What ``action`` returns in the first process, which alone does it."""
        return _together(lambda: action() if _rank() == 0 else None)[0]  # type: ignore[return-value]


def _rank() -> int:
    return dist.get_rank() if in_a_group() else 0


def _count() -> int:
    return dist.get_world_size() if in_a_group() else 1


def _together(action: Callable[[], T]) -> list[T]:
    """What ``action`` returns in each process, in order of rank. If it raises in any, all raise SaveError.

    An interrupt stays what it is in the process that it reached.
    """
    result, failure, cause = None, None, None
    try:
        result = action()
    except BaseException as error:
        cause = _unwrapped(error)
        failure = str(cause) if isinstance(cause, SaveError) else f"{type(cause).__name__}: {cause}"
    everyone: list[Any] = [(result, failure)] * _count()
    if _count() > 1:
        dist.all_gather_object(everyone, (result, failure))
    if cause is not None and not isinstance(cause, Exception):
        raise cause
    failed = next((reason for _, reason in everyone if reason), None)
    if failed:
        raise SaveError(failed) from cause
    return [value for value, _ in everyone]


def _unwrapped(error: BaseException) -> BaseException:
    """What torch.distributed.checkpoint caught, interrupts first, and wrapped for all processes."""
    if not isinstance(error, CheckpointException):
        return error
    causes = [cause for cause, _ in error.failures.values()]
    return next((cause for cause in causes if not isinstance(cause, Exception)), causes[0])


def _state_of(module: torch.nn.Module, optimiser: Optimizer) -> dict[str, Any]:
    model, state = get_state_dict(module, optimiser, options=_TRAINED)
    return {"model": model, "optimiser": state}


def _write(folder: Path, state: dict[str, Any]) -> None:
    with _quiet():
        dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, sync_files=False), no_dist=_count() == 1)


def _read(folder: Path, module: torch.nn.Module, optimiser: Optimizer) -> None:
    state = _state_of(module, optimiser)
    with _quiet():
        dcp.load(state, storage_reader=dcp.FileSystemReader(folder), no_dist=_count() == 1)
    set_state_dict(
        module, optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"], options=_TRAINED
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remark that there is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _write_progress(partial: Path, step: int, scheduler: LRScheduler, files: Sequence[Path]) -> None:
    _write_json(partial / "progress.json", {"step": step, "schedule": scheduler.state_dict()})
    (partial / "files").mkdir()
    _copy(files, partial / "files")


def _read_progress(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Step and schedule, and this process's random states if any were saved."""
    states = path / f"random-{_rank()}.json"
    progress = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    return progress, json.loads(states.read_text(encoding="utf-8")) if states.exists() else None


def _restore_rest(scheduler: LRScheduler, schedule: dict[str, Any], states: dict[str, Any] | None) -> None:
    scheduler.load_state_dict(schedule)
    if states is not None:
        set_random_state(states)


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)


def _own(partial: Path) -> Iterable[Path]:
    """The files that this process wrote: those of its number, and in the first process all that have none."""
    numbered = re.compile(r"(?:__|random-)(\d+)[_.]")
    for path in partial.rglob("*"):
        match = numbered.match(path.name)
        if path.is_file() and int(match[1] if match else 0) == _rank():
            yield path


def _seal(path: Path) -> dict[str, Any]:
    """Force a file to the disk, and describe it."""
    sync(path)
    return _described(path)


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _problem(state: Path, part: int, parts: int) -> str | None:
    """What is wrong with one of ``parts`` equal parts of a state's files."""
    try:
        files = json.loads((state / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name in sorted(files)[part::parts]:
            if _described(state / name) != files[name]:
                return f"{name} has other content than when it was written"
    except FileNotFoundError as error:
        return f"{_name(Path(error.filename), state)} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not whole"
    except OSError as error:
        return str(error)
    return None


def _is_state(path: Path) -> bool:
    return re.fullmatch(r"step-\d+", path.name) is not None


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _discard(path: Path) -> None:
    """Delete a folder. What cannot be deleted now is no state any more, and is tried again by the next save."""
    with suppress(OSError):
        path = path.replace(path.with_suffix(".discarded")) if _is_state(path) else path
    shutil.rmtree(path, ignore_errors=True)


def _copy(files: Iterable[Path], into: Path) -> None:
    for path in files:
        shutil.copy(path, into)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.3f} GB"
