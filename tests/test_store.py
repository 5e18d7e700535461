"""The store: one build per artifact, whatever happens to the processes that build it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from kto_bench.store import MANIFEST, Stage, Store, fingerprint_of, saved_beside, write_atomically

SPAWN = multiprocessing.get_context("spawn")


def stage_of(log: Path, seconds: float = 0.0, **changes: object) -> Stage:
    """A stage that notes each build in ``log`` and takes ``seconds``."""

    def build(folder: Path, inputs: dict[str, Path]) -> None:
        (folder / "half").write_text("half")
        with log.open("a") as file:
            file.write("started\n")
        time.sleep(seconds)
        (folder / "whole").write_text("whole")

    values = {"name": "align", "version": 1, "config": {"beta": 0.1}, "inputs": {}, **changes}
    return Stage(build=build, **values)  # type: ignore[arg-type]


def fetch_in_process(root: str, log: str, seconds: float) -> None:
    Store(Path(root)).fetch(stage_of(Path(log), seconds))


def test_an_artifact_is_built_once_and_found_afterwards(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "store"), tmp_path / "log"
    first, second = store.fetch(stage_of(log)), store.fetch(stage_of(log))
    assert (first.cached, second.cached) == (False, True)
    assert first.folder == second.folder
    assert (first.folder / "whole").read_text() == "whole"
    assert log.read_text() == "started\n"


@pytest.mark.parametrize(
    "change",
    [{"name": "sft"}, {"version": 2}, {"config": {"beta": 0.2}}, {"config": {"beta": 0.1, "seed": 0}}],
    ids=str,
)
def test_each_ingredient_changes_the_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    assert stage_of(tmp_path).fingerprint != stage_of(tmp_path, **change).fingerprint


def test_a_changed_input_changes_the_fingerprint(tmp_path: Path) -> None:
    one, other = (stage_of(tmp_path, inputs={"policy": stage_of(tmp_path, version=v)}) for v in (1, 2))
    assert one.fingerprint != other.fingerprint


def test_the_order_of_configuration_keys_does_not_matter() -> None:
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint_of({"learning_rate": float("nan")})


def test_inputs_are_built_first_and_handed_over(tmp_path: Path) -> None:
    seen = {}

    def build(folder: Path, inputs: dict[str, Path]) -> None:
        seen.update({name: (path / "whole").read_text() for name, path in inputs.items()})

    parent = stage_of(tmp_path / "log", name="sft")
    Store(tmp_path / "store").fetch(Stage("align", 1, {}, {"policy": parent}, build))
    assert seen == {"policy": "whole"}


def test_a_failed_build_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def fails(folder: Path, inputs: dict[str, Path]) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        store.fetch(Stage("align", 1, {"beta": 0.1}, {}, fails))
    good = stage_of(tmp_path / "log")
    assert not store.has(good)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.name == "half"]
    assert not store.fetch(good).cached


def test_two_processes_that_want_the_same_artifact_build_it_once(tmp_path: Path) -> None:
    arguments = (str(tmp_path / "store"), str(tmp_path / "log"), 0.5)
    workers = [SPAWN.Process(target=fetch_in_process, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "started\n"


def test_after_kill_9_in_the_middle_the_next_process_builds_it_whole(tmp_path: Path) -> None:
    log, store = tmp_path / "log", Store(tmp_path / "store")
    worker = SPAWN.Process(target=fetch_in_process, args=(str(tmp_path / "store"), str(log), 60.0))
    worker.start()
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    wanted = stage_of(log)
    assert not store.has(wanted)
    assert list((tmp_path / "store" / "align").glob("*.partial-*")), "the killed process left its partial folder"
    assert (store.fetch(wanted).folder / "whole").exists()
    assert not list((tmp_path / "store" / "align").glob("*.partial-*"))


def test_who_waits_is_told_who_builds(tmp_path: Path) -> None:
    heard: list[str] = []
    worker = SPAWN.Process(target=fetch_in_process, args=(str(tmp_path / "store"), str(tmp_path / "log"), 2.5))
    worker.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.02)
    Store(tmp_path / "store", lambda stage, holder: heard.append(holder)).fetch(stage_of(tmp_path / "log"))
    worker.join()
    assert len(heard) == 1
    assert f"process {worker.pid} on" in heard[0]


def test_the_manifest_says_what_was_built(tmp_path: Path) -> None:
    import json

    found = Store(tmp_path / "store").fetch(stage_of(tmp_path / "log"))
    manifest = json.loads((found.folder / MANIFEST).read_text())
    assert manifest["config"] == {"beta": 0.1}
    assert manifest["version"] == 1
    assert found.folder.name == manifest["fingerprint"]


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [child.name for child in tmp_path.iterdir()] == ["status.json"]


def saving(*, fails: bool) -> Stage:
    """A stage that adds a line to what it saves beside its folder, and then fails or writes what it has saved."""

    def build(folder: Path, inputs: dict[str, Path]) -> None:
        saved = saved_beside(folder)
        saved.mkdir(exist_ok=True)
        with (saved / "state").open("a") as file:
            file.write("step\n")
        if fails:
            raise RuntimeError("planted")
        (folder / "whole").write_text((saved / "state").read_text())

    return Stage("align", 1, {"beta": 0.1}, {}, build)


def test_what_a_stage_saves_survives_failures_and_is_removed_with_success(tmp_path: Path) -> None:
    store, failing = Store(tmp_path), saving(fails=True)
    saved = tmp_path / "align" / f"{failing.fingerprint}.saved"
    for attempt in (1, 2):
        with pytest.raises(RuntimeError, match="planted"):
            store.fetch(failing)
        assert (saved / "state").read_text() == "step\n" * attempt
        assert not store.has(failing)
        assert not list((tmp_path / "align").glob("*.partial-*"))
    found = store.fetch(saving(fails=False))
    assert not found.cached
    assert (found.folder / "whole").read_text() == "step\n" * 3
    assert not saved.exists()
    assert [path.name for path in tmp_path.glob("align/*") if path.is_dir()] == [failing.fingerprint]


def save_in_process(root: str) -> None:
    def build(folder: Path, inputs: dict[str, Path]) -> None:
        saved_beside(folder).mkdir()
        (saved_beside(folder) / "state").write_text("step 1")
        time.sleep(60)

    Store(Path(root)).fetch(Stage("align", 1, {"beta": 0.1}, {}, build))


def test_what_a_stage_saves_survives_kill_9(tmp_path: Path) -> None:
    wanted = saving(fails=True)
    state = tmp_path / "align" / f"{wanted.fingerprint}.saved" / "state"
    worker = SPAWN.Process(target=save_in_process, args=(str(tmp_path),))
    worker.start()
    deadline = time.monotonic() + 60
    while not (state.exists() and state.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    worker.kill()
    worker.join()
    with pytest.raises(RuntimeError, match="planted"):
        Store(tmp_path).fetch(wanted)
    assert state.read_text() == "step 1step\n"


def test_what_a_killed_process_left_beside_a_whole_artifact_is_removed(tmp_path: Path) -> None:
    """A kill between the renaming and the removal."""
    store = Store(tmp_path)
    found = store.fetch(saving(fails=False))
    saved_beside(found.folder).mkdir()
    (saved_beside(found.folder) / "state").touch()
    assert store.fetch(saving(fails=False)).cached
    assert not saved_beside(found.folder).exists()
    assert (found.folder / "whole").exists()
