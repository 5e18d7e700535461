"""The store: one build per artifact, whatever happens to the processes that build it."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kto_bench import checksums
from kto_bench.locks import LockError, locked, tell_of_waiting
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
    found = Store(tmp_path / "store").fetch(stage_of(tmp_path / "log"))
    manifest = json.loads((found.folder / MANIFEST).read_text())
    assert manifest["config"] == {"beta": 0.1}
    assert manifest["version"] == 1
    assert found.folder.name == manifest["fingerprint"]
    # sha256 of the four letters "half" and the five letters "whole", by coreutils' sha256sum.
    assert manifest["files"] == {
        "half": {"bytes": 4, "sha256": "a11ae06469c63740d7b0ecf802f282a0d46e94f31a654dfcd3c0dc6dc277f904"},
        "whole": {"bytes": 5, "sha256": "5d5766cf2d78701614200418ee1450690d9af12c84d52545e4802f001ad53099"},
    }


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


@pytest.fixture
def in_another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What is called before something that another process would do: it has looked at no artifact yet."""
    return lambda: monkeypatch.setattr(checksums, "_whole", set())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: flip(folder / "whole"), "its checksum is not that of the file that was written"),
        (lambda folder: (folder / "whole").write_text("who"), "it has 3 bytes, and had 5 when it was written"),
        (lambda folder: (folder / "whole").unlink(), "whole is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "stage.json is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "stage.json is damaged"),
        (lambda folder: (folder / MANIFEST).unlink(), "stage.json is missing"),
    ],
    ids=["a byte flipped", "cut short", "a file gone", "manifest cut short", "no manifest", "manifest gone"],
)
def test_a_damaged_artifact_is_set_aside_said_and_built_again(
    tmp_path: Path, in_another_process: Callable[[], None], harm: Callable[[Path], None], said: str
) -> None:
    heard: list[str] = []
    store = Store(tmp_path / "store", on_damage=lambda stage, damage: heard.append(f"{stage.name}: {damage}"))
    for times in (1, 2):
        folder = store.fetch(stage_of(tmp_path / "log")).folder
        in_another_process()
        harm(folder)
        found = store.fetch(stage_of(tmp_path / "log"))
        assert not found.cached
        assert (found.folder / "whole").read_text() == "whole"
        assert len(heard) == times
        assert heard[-1].startswith("align: ")
        assert said in heard[-1]
        aside = folder.with_name(folder.name + (".damaged" if times == 1 else ".damaged-2"))
        assert aside.is_dir()
        assert f"moved to {aside}" in heard[-1]
    assert store.fetch(stage_of(tmp_path / "log")).cached
    assert (tmp_path / "log").read_text() == "started\n" * 3


def test_content_is_read_once_by_each_process_and_again_where_it_was_built_again(
    tmp_path: Path, in_another_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = checksums.sha256_of

    def noted(path: Path) -> str:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(checksums, "sha256_of", noted)
    store, stage = Store(tmp_path / "store"), stage_of(tmp_path / "log")
    folder = store.fetch(stage).folder
    assert sorted(read) == ["half", "whole"], "once, to take the checksums"
    store.fetch(stage)
    assert len(read) == 2
    in_another_process()
    for _ in range(3):
        Store(tmp_path / "store").fetch(stage)
    assert len(read) == 4
    shutil.rmtree(folder)
    store.fetch(stage)
    assert len(read) == 6


def test_an_artifact_from_before_there_were_checksums_counts(
    tmp_path: Path, in_another_process: Callable[[], None]
) -> None:
    store, stage = Store(tmp_path / "store"), stage_of(tmp_path / "log")
    folder = store.fetch(stage).folder
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    in_another_process()
    assert store.fetch(stage).cached


def test_files_that_somebody_adds_are_no_damage(tmp_path: Path, in_another_process: Callable[[], None]) -> None:
    store, stage = Store(tmp_path / "store"), stage_of(tmp_path / "log")
    (store.fetch(stage).folder / "notes.txt").write_text("mine")
    in_another_process()
    assert store.fetch(stage).cached


def test_a_damaged_input_is_built_again_before_what_needs_it(
    tmp_path: Path, in_another_process: Callable[[], None]
) -> None:
    store, parent = Store(tmp_path / "store"), stage_of(tmp_path / "log", name="sft")
    flip(store.fetch(parent).folder / "whole")
    in_another_process()
    seen = []

    def build(folder: Path, inputs: dict[str, Path]) -> None:
        seen.append((inputs["policy"] / "whole").read_text())

    store.fetch(Stage("align", 1, {}, {"policy": parent}, build))
    assert seen == ["whole"]


def test_what_another_host_put_there_first_counts(tmp_path: Path) -> None:
    """Where the lock did not keep it out, since its file system locks each host for itself."""
    store = Store(tmp_path / "store")

    def build(folder: Path, inputs: dict[str, Path]) -> None:
        (folder / "whole").write_text("ours")
        other = store.folder(stage)
        other.mkdir()
        (other / "whole").write_text("theirs")
        (other / MANIFEST).write_text(json.dumps({"wall_seconds": 1.0}))

    stage = Stage("align", 1, {"beta": 0.1}, {}, build)
    found = store.fetch(stage)
    assert (found.folder / "whole").read_text() == "theirs"
    assert not list((tmp_path / "store" / "align").glob("*.partial-*"))


def test_a_full_disk_is_told_whatever_a_library_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path, inputs: dict[str, Path]) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    with pytest.raises(OSError, match="No space left on device") as caught:
        Store(tmp_path / "store").fetch(Stage("align", 1, {}, {}, build))
    assert "PytorchStreamWriter" in str(caught.value.__cause__)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    with pytest.raises(RuntimeError, match="PytorchStreamWriter"):
        Store(tmp_path / "store").fetch(Stage("align", 1, {}, {}, build))


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    store = Store(tmp_path / "store")
    with pytest.raises(LockError, match="cannot lock files") as caught:
        store.fetch(stage_of(tmp_path / "log"))
    assert caught.value.errno == code
    assert str(caught.value.filename).startswith(str(tmp_path / "store"))
    assert "artifacts=FOLDER" in str(caught.value)
    assert not (tmp_path / "log").exists()


def test_a_lock_that_may_not_be_written_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        locked(tmp_path, lambda holder: None)


def test_who_waits_for_a_lock_tells_so_and_tells_when_it_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kto_bench import locks

    monkeypatch.setattr(locks, "_told", [])
    told: list[bool] = []
    tell_of_waiting(told.append)
    taken = threading.Event()

    def hold() -> None:
        with locked(tmp_path / "a.lock", lambda holder: None):
            taken.set()
            time.sleep(2)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    assert told == []
    heard: list[str] = []
    with locked(tmp_path / "a.lock", heard.append):
        assert told == [True, False]
    assert len(heard) == 1
    thread.join()


def hold_in_process(path: str, ready: str) -> None:
    with locked(Path(path), lambda holder: None):
        Path(ready).touch()
        time.sleep(60)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    worker = SPAWN.Process(target=hold_in_process, args=(str(tmp_path / "a.lock"), str(tmp_path / "ready")))
    worker.start()
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    worker.kill()
    worker.join()
    heard: list[str] = []
    started = time.monotonic()
    with locked(tmp_path / "a.lock", heard.append):
        assert time.monotonic() - started < 0.9
    assert heard == []


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write_atomically(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["status.json"]
