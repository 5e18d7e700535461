"""What goes wrong in a week of a hundred cells: the sweep comes out whole, and says what it cost."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import SMALL, fill
from small_run import MakeConfig

from kto_bench.cell import run_cell
from kto_bench.run import describe, execute

VOLATILE = {"status.json", "timing.json", "environment.json", "heartbeat.json"}
JUDGES = """
import os, signal, time

def fine(instruction, a, b):
    return 1 if len(a) <= len(b) else 2

def raises(instruction, a, b):
    raise ValueError("planted")

def kills(instruction, a, b):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(instruction, a, b):
    time.sleep(600)
"""
CELLS = [*SMALL, "sweep=faults"]
WORKERS = ["hydra/launcher=processes", "hydra.launcher.n_jobs=2"]


def furnish(folder: Path) -> Path:
    """A working folder with a checkpoint, feedback and judges."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "judges.py").write_text(JUDGES)
    return fill(folder)


def launch(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The public command, in a session of its own, by which its processes are found."""
    return subprocess.Popen(
        [sys.executable, "-m", "kto_bench", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status, and what was printed."""
    process = launch(folder, *arguments)
    printed = process.communicate(timeout=400)[1]
    return process.returncode, printed


def statuses(folder: Path, sweep: str = "faults") -> list[dict[str, Any]]:
    found = []
    for path in sorted((folder / "results" / sweep).glob("*/status.json")):
        with suppress(FileNotFoundError):  # a run that begins again removes what is there
            found.append(json.loads(path.read_text()))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """All of the records that must be the same for the same work."""
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and path.name not in VOLATILE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def of_session(session: int) -> list[psutil.Process]:
    """The processes that a command has started and that are alive."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def victims(session: int) -> dict[str, list[psutil.Process]]:
    """The worker processes of a command: joblib's, the servers that cells are forked from, and the cells."""
    workers: dict[str, list[psutil.Process]] = {"joblib": [], "server": [], "cell": []}
    for process in of_session(session):
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if "popen_loky" in words:
                workers["joblib"].append(process)
            elif "multiprocessing.forkserver" in words:
                # A cell is forked from its server, and called alike.
                parent = process.parent()
                forked = parent is not None and "multiprocessing.forkserver" in " ".join(parent.cmdline())
                workers["cell" if forked else "server"].append(process)
    return workers


def test_twenty_kills_of_random_workers_at_random_times_change_no_record(tmp_path: Path) -> None:
    """kill -9; the command is given again whenever it ends. An undisturbed sweep is the yardstick."""
    calm, rough = furnish(tmp_path / "calm"), furnish(tmp_path / "rough")
    cells = ["-m", *CELLS, *WORKERS, "loss=dpo,kto,simpo", "seed=0,1,2,3", "retry=failed"]
    status, printed = run(calm, *cells)
    assert status == 0, printed
    dice, killed, launches = random.Random(5), Counter[str](), 0
    command = None
    deadline = time.monotonic() + 1500
    while killed.total() < 20:
        assert time.monotonic() < deadline, (killed, launches)
        if command is None or command.poll() is not None:
            assert len([s for s in statuses(rough) if s["state"] == "done"]) < 12, f"all done after {killed}"
            command, launches = launch(rough, *cells), launches + 1
        kind = dice.choices(["cell", "server", "joblib"], weights=[8, 1, 1])[0]
        # Whatever the machine's speed: wait until a cell is at work, then a random while.
        while command.poll() is None and not victims(command.pid)["cell"]:
            time.sleep(0.1)
        # Fewer cells are left on a fast machine: then kills come sooner, so that 20 fit into the sweep.
        left = 12 - len([s for s in statuses(rough) if s["state"] == "done"])
        time.sleep(dice.uniform(0, 0.8 if left > 6 else 0.1))
        living = victims(command.pid)[kind]
        if command.poll() is None and living:
            with suppress(psutil.NoSuchProcess):
                victim = dice.choice(living)
                victim.kill()
                killed[kind] += 1
                if kind == "joblib":
                    command.wait(60)  # the pool is broken, and the command ends
    assert command is not None
    command.communicate(timeout=120)
    status, printed = run(rough, *cells)
    assert status == 0, printed
    assert killed["cell"] >= 10
    assert [found["state"] for found in statuses(rough)] == ["done"] * 12
    assert contents(rough) == contents(calm)
    assert not list((rough / "artifacts").rglob("*.partial-*"))
    deadline = time.monotonic() + 20
    while of_session(command.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not of_session(command.pid), "something outlives the command"


def test_cells_that_raise_are_killed_or_hang_are_told_apart_and_stop_no_others(tmp_path: Path) -> None:
    folder = furnish(tmp_path)
    judge = [
        "judge@evaluation.judge=callable",
        "evaluation.judge.function=judges.raises,judges.kills,judges.hangs,judges.fine",
    ]
    cells = ["-m", *CELLS, *WORKERS, *judge, "loss=none", "timeout_minutes=0.3"]
    status, printed = run(folder, *cells)
    assert status == 1, printed
    found = {path.parent: json.loads(path.read_text()) for path in (folder / "results").rglob("status.json")}
    said = {}
    for record, state in found.items():
        function = json.loads((record / "config.json").read_text())["evaluation"]["judge"]["function"]
        said[function.removeprefix("judges.")] = (state["state"], state["reason"])
        if state["state"] == "failed":
            assert state["traceback"]
    assert said["fine"] == ("done", None)
    assert said["raises"][0] == said["kills"][0] == said["hangs"][0] == "failed"
    assert "ValueError: planted" in said["raises"][1]
    assert "killed by signal 9 (SIGKILL), which is what running out of memory looks like" in said["kills"][1]
    assert "timed out after 0.3 minutes" in said["hangs"][1]


def test_two_launches_of_a_sweep_at_once_build_each_stage_once(tmp_path: Path) -> None:
    folder = furnish(tmp_path)
    cells = ["-m", *CELLS, "loss=dpo,kto", "seed=0,1"]
    both = [launch(folder, *cells) for _ in range(2)]
    printed = [process.communicate(timeout=400)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    built = sum(line.endswith(": started") for text in printed for line in text.splitlines())
    artifacts = list((folder / "artifacts").glob("*/*/stage.json"))
    assert built == len(artifacts) > 8
    assert [status["state"] for status in statuses(folder)] == ["done"] * 4
    assert len({status["fingerprint"] for status in statuses(folder)}) == 4


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_byte_flipped_in_an_artifact_is_found_and_the_artifact_rebuilt(
    make: MakeConfig,
) -> None:
    config = make("evaluation.judge=null")
    assert run_cell(config) == "done"
    described, record = describe(config)
    before = {path.name: path.read_bytes() for path in record.folder.iterdir() if path.name not in VOLATILE}
    align = config.run.artifacts / "align" / described.stages["align"].fingerprint
    weights = align / "model.safetensors"
    whole = weights.read_bytes()
    flip_a_byte(weights)
    (record.folder / "status.json").unlink()
    assert run_cell(config) == "done"
    assert weights.read_bytes() == whole
    assert (align.with_name(f"{align.name}.damaged") / "model.safetensors").exists()
    assert {path.name: path.read_bytes() for path in record.folder.iterdir() if path.name not in VOLATILE} == before
    timing = json.loads((record.folder / "timing.json").read_text())["stages"]
    assert {name for name, stage in timing.items() if not stage["cached"]} == {"align"}


def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path) -> None:
    """All that is there is from the future: what is done stays done, and what a dead process left is begun again."""
    folder = furnish(tmp_path)
    cells = ["-m", *CELLS, "loss=none", "evaluation.generation.max_new_tokens=4,8"]
    assert run(folder, *cells)[0] == 0
    done, interrupted = sorted((folder / "results" / "faults").iterdir())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    status = json.loads((interrupted / "status.json").read_text())
    status |= {"state": "running", "pid": gone.pid, "started": "2099-01-01T00:00:00+00:00", "finished": None}
    (interrupted / "status.json").write_text(json.dumps(status))
    (interrupted / "heartbeat.json").write_text(json.dumps({"host": status["host"], "pid": gone.pid, "stage": "align"}))
    later = time.time() + 10 * 365 * 86400
    for path in (folder / "results").rglob("*"), (folder / "artifacts").rglob("*"):
        for one in path:
            os.utime(one, (later, later))
    before = (done / "status.json").stat().st_mtime_ns
    code, printed = run(folder, *cells)
    assert code == 0, printed
    assert [found["state"] for found in statuses(folder)] == ["done", "done"]
    assert (done / "status.json").stat().st_mtime_ns == before
    assert ": started" not in printed, "an artifact from the future was built again"


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may grow over ``size`` bytes: a disk that is full, as far as whoever writes can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at ``folder``; the test is skipped where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"may not mount a file system here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def nothing_half_done(config: Any) -> bool:
    return not [path for path in config.run.artifacts.rglob("*") if ".partial-" in path.name]


def test_a_file_that_cannot_be_written_whole_fails_the_run_and_the_next_launch_finishes(make: MakeConfig) -> None:
    config = make("loss=none", "evaluation.judge=null")
    with limited(20_000):
        assert execute(config) == "failed"
    record = describe(config)[1]
    reason = json.loads((record.folder / "status.json").read_text())["reason"]
    assert os.strerror(errno.EFBIG) in reason
    assert nothing_half_done(config)
    assert execute(config) == "done"


def test_a_disk_that_is_full_of_artifacts(make: MakeConfig) -> None:
    config = make("loss=none", "evaluation.judge=null")
    with small_disk(config.run.artifacts, "64k"):
        assert execute(config) == "failed"
        record = describe(config)[1]
        status = json.loads((record.folder / "status.json").read_text())
        assert os.strerror(errno.ENOSPC) in status["reason"]
        assert nothing_half_done(config)
        assert not list(config.run.artifacts.glob("checkpoint/*/stage.json"))
        remount(config.run.artifacts, "size=50m")
        assert execute(config) == "done"


@pytest.mark.parametrize("kilobytes", [4, 12, 20, 28])
def test_a_disk_that_is_full_of_records(make: MakeConfig, capfd: pytest.CaptureFixture[str], kilobytes: int) -> None:
    """Wherever in the record the room ends."""
    config = make("loss=none", "evaluation.judge=null")
    with small_disk(config.run.results, f"{kilobytes}k"):
        assert execute(config) == "failed"
        assert os.strerror(errno.ENOSPC) in capfd.readouterr().err
        record = describe(config)[1]
        assert record.state() != "done"
        assert not [path for path in record.folder.glob(".*") if path.name.startswith(".status")]
        remount(config.run.results, "size=50m")
        assert execute(config) == "done"
        assert len(list(record.folder.iterdir())) == 8


@pytest.mark.parametrize("multirun", [[], ["-m"]], ids=["one run", "multirun"])
def test_a_results_folder_that_is_read_only_is_told_before_anything_is_computed(
    tmp_path: Path, multirun: list[str]
) -> None:
    folder = furnish(tmp_path)
    cells = [*multirun, *CELLS, "loss=none", f"seed={'0,1' if multirun else 0}"]
    with small_disk(folder / "results", "1m"):
        remount(folder / "results", "ro")
        status, printed = run(folder, *cells)
        assert status != 0
        assert os.strerror(errno.EROFS) in printed
        assert "results" in printed
        assert not list((folder / "artifacts").glob("*/*/stage.json"))
        assert not list((folder / "artifacts").glob("*/*.partial-*"))
        if multirun:
            remount(folder / "results", "rw")
            status, printed = run(folder, *cells)
            assert status == 0, printed


def test_a_results_path_that_is_a_file_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    """The same where nothing may be mounted."""
    folder = furnish(tmp_path)
    (folder / "results").write_text("a file")
    status, printed = run(folder, *CELLS, "loss=none")
    assert status != 0
    assert "results" in printed
    assert not list((folder / "artifacts").glob("*/*/stage.json"))


def test_a_killed_command_leaves_no_process_behind(tmp_path: Path) -> None:
    """kill -9 of the command itself: its workers and their cells end too, within seconds."""
    folder = furnish(tmp_path)
    judge = ["judge@evaluation.judge=callable", "evaluation.judge.function=judges.hangs"]
    command = launch(folder, "-m", *CELLS, *WORKERS, *judge, "loss=none", "evaluation.generation.max_new_tokens=4,8")
    deadline = time.monotonic() + 300
    while len(victims(command.pid)["cell"]) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(victims(command.pid)["cell"]) == 2
    command.send_signal(signal.SIGKILL)
    command.wait()
    deadline = time.monotonic() + 20
    while (alive := victims(command.pid))["cell"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive["cell"]
