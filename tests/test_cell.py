"""A cell in a process of its own: the same record, and nothing that ends it ends anything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from small_run import MakeConfig

from kto_bench import cell
from kto_bench.cell import run_cell
from kto_bench.locks import locked
from kto_bench.preemption import Preempted
from kto_bench.record import Record
from kto_bench.run import describe, execute
from kto_bench.store import Store

VOLATILE = {"status.json", "timing.json", "environment.json", "config.json"}
JUDGE = """
import os, signal, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).parent

def begin():
    (HERE / "began.partial").write_text(str(os.getpid()))
    (HERE / "began.partial").rename(HERE / "began")

def kills(instruction, a, b):
    os.kill(os.getpid(), signal.SIGKILL)

def exits(instruction, a, b):
    os._exit(3)

def raises(instruction, a, b):
    raise ValueError("planted")

def hangs(instruction, a, b):
    (HERE / "helper").write_text(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]).pid))
    begin()
    time.sleep(300)

def tells(instruction, a, b):
    (HERE / "told").write_text(f"{os.environ.get('KTO_BENCH_TEST')} {os.getcwd()} {os.getpid()}")
    return 1
"""


@pytest.fixture
def judged(tmp_path: Path, make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A configuration whose judge is the function of that name in a module of the user's."""
    (tmp_path / "my_judges.py").write_text(JUDGE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def config(function: str, *overrides: str) -> Any:
        return make("loss=none", f"evaluation.judge.function=my_judges.{function}", *overrides)

    yield config
    sys.modules.pop("my_judges", None)


def record_of(config: Any) -> Record:
    return describe(config)[1]


def status_of(config: Any) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((record_of(config).folder / "status.json").read_text())
    return status


def is_alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def test_the_record_is_that_of_the_same_work_in_this_process(tmp_path: Path, make: MakeConfig) -> None:
    here, there = ([f"results={tmp_path / name / 'r'}", f"artifacts={tmp_path / name / 'a'}"] for name in "ab")
    assert execute(make("start=sft", "start.train.steps=2", *here)) == "done"
    config = make("start=sft", "start.train.steps=2", *there)
    assert run_cell(config) == "done"
    folders = [record_of(make("start=sft", "start.train.steps=2", *place)).folder for place in (here, there)]
    one, other = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in VOLATILE} for folder in folders
    )
    assert one == other
    assert len(one) >= 6
    environments = [json.loads((folder / "environment.json").read_text()) for folder in folders]
    assert environments[0] == environments[1]
    assert status_of(config)["pid"] != os.getpid()


def test_a_cell_that_is_done_starts_no_process(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("loss=none", "evaluation=heldout", "evaluation.judge=null")
    assert execute(config) == "done"
    monkeypatch.setattr(cell, "_Cell", None)
    before = {path: path.stat().st_mtime_ns for path in record_of(config).folder.iterdir()}
    assert run_cell(config) == "cached"
    assert {path: path.stat().st_mtime_ns for path in record_of(config).folder.iterdir()} == before


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("kills", "CellKilledError: killed by signal 9 (SIGKILL), which is what running out of memory looks like"),
        ("exits", "CellError: its process ended with exit status 3 and without a word"),
        ("raises", "EvaluationError: judge 'callable' failed on 9 prompts: ValueError: planted"),
    ],
)
def test_a_cell_that_ends_badly_is_failed_with_the_reason(
    judged: Callable[..., Any], function: str, reason: str
) -> None:
    config = judged(function)
    assert run_cell(config) == "failed"
    status = status_of(config)
    assert (status["state"], status["reason"]) == ("failed", reason)
    assert reason in status["traceback"]
    assert (record_of(config).folder / "config.json").exists()
    assert not [path for path in config.run.artifacts.rglob("*.partial-*") if function == "raises"]
    # What it held is free, and what it had built is there: another judge goes on from there.
    assert run_cell(judged("tells")) == "done"
    timing = json.loads((record_of(judged("tells")).folder / "timing.json").read_text())["stages"]
    assert {name for name, stage in timing.items() if not stage["cached"]} == {"judge"}


def test_a_cell_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path, judged: Callable[..., Any]) -> None:
    config = judged("hangs")
    assert run_cell(config, timeout_minutes=0.2) == "failed"
    assert status_of(config)["reason"] == "CellTimeoutError: timed out after 0.2 minutes (timeout_minutes)"
    pids = [int((tmp_path / name).read_text()) for name in ("began", "helper")]
    assert until(lambda: not any(map(is_alive, pids)), 5)


def test_waiting_for_what_another_process_builds_does_not_count_as_time_taken(make: MakeConfig) -> None:
    config = make("loss=none", "evaluation.judge=null")
    stage = describe(config)[0].stages["generate"]
    lock = Store(config.run.artifacts).folder(stage).with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    held = threading.Event()

    def hold() -> None:
        with locked(lock, lambda holder: None):
            held.set()
            time.sleep(9)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    started = time.monotonic()
    assert run_cell(config, timeout_minutes=7 / 60) == "done"
    assert time.monotonic() - started > 8
    thread.join()


def test_environment_and_folder_are_those_of_now(
    tmp_path: Path, judged: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was started by an earlier cell, and knows neither."""
    cell.prepare()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("KTO_BENCH_TEST", "now")
    assert run_cell(judged("tells")) == "done"
    value, folder, pid = (tmp_path / "told").read_text().split()
    assert (value, folder) == ("now", str(tmp_path / "elsewhere"))
    assert int(pid) != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2], ids=lambda number: number.name)
def test_a_signal_to_this_process_preempts_the_cell(
    tmp_path: Path, judged: Callable[..., Any], number: signal.Signals
) -> None:
    config = judged("hangs")

    def tell() -> None:
        until((tmp_path / "began").exists)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(Preempted, match="goes on from the last save"):
        run_cell(config)
    thread.join()
    assert status_of(config)["state"] == "preempted"
    assert until(lambda: not is_alive(int((tmp_path / "helper").read_text())), 5)


def test_a_signal_to_the_cell_alone_preempts_that_one_only(tmp_path: Path, judged: Callable[..., Any]) -> None:
    config = judged("hangs")

    def tell() -> None:
        until((tmp_path / "began").exists)
        os.kill(int((tmp_path / "began").read_text()), signal.SIGTERM)

    thread = threading.Thread(target=tell)
    thread.start()
    assert run_cell(config) == "preempted"
    thread.join()
    assert status_of(config)["state"] == "preempted"


def test_the_server_outlives_the_signals_that_a_cluster_sends_to_all(make: MakeConfig) -> None:
    from multiprocessing import forkserver

    cell.prepare()
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    for number in (signal.SIGTERM, signal.SIGUSR2):
        os.kill(server, number)
    assert run_cell(make("loss=none", "evaluation.judge=null")) == "done"
    assert is_alive(server)
    assert forkserver._forkserver._forkserver_pid == server  # type: ignore[attr-defined]


def test_a_cell_whose_server_is_killed_fails_and_the_next_has_a_new_one(
    tmp_path: Path, judged: Callable[..., Any]
) -> None:
    from multiprocessing import forkserver

    def kill() -> None:
        until((tmp_path / "began").exists)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]

    thread = threading.Thread(target=kill)
    thread.start()
    config = judged("hangs")
    assert run_cell(config) == "failed"
    thread.join()
    assert "the server that cells are forked from was killed" in status_of(config)["reason"]
    assert not is_alive(int((tmp_path / "began").read_text()))
    assert run_cell(judged("tells")) == "done"


SCRIPT = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from kto_bench.cell import run_cell
from kto_bench.config import resolve

if __name__ == "__main__":
    sys.path.append(sys.argv[2])
    try:
        print(run_cell(resolve(json.loads(sys.argv[1]))))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_cell_ends_with_the_process_that_runs_it(
    tmp_path: Path, judged: Callable[..., Any], number: signal.Signals
) -> None:
    config = judged("hangs")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", json.dumps(config.plain), str(tmp_path)]
    parent = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert until((tmp_path / "began").exists)
    parent.send_signal(number)
    printed = parent.communicate(timeout=30)[0]
    pids = [int((tmp_path / name).read_text()) for name in ("began", "helper")]
    assert until(lambda: not any(map(is_alive, pids)), 10)
    if number == signal.SIGINT:
        assert printed == "interrupted\n"
        assert status_of(config)["state"] == "preempted"
        assert status_of(config)["reason"].startswith("interrupted from the keyboard")
    # Nothing waits for it any more.
    assert run_cell(judged("tells")) == "done"


def test_importing_the_module_is_cheap() -> None:
    """So that the server can be started first, and import while the command does."""
    code = "import sys, kto_bench.cell; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_what_the_server_imports_starts_no_threads_looks_for_no_gpus_and_is_silent() -> None:
    """Threads are lost in a fork, and CUDA cannot be used in one if it was looked for before."""
    code = f"""
import importlib, os, sys
from pathlib import Path
import torch

def looked(*args, **kwargs):
    raise SystemExit("looked for GPUs")

for name in ("is_available", "device_count", "_lazy_init", "init"):
    setattr(torch.cuda, name, looked)
for name in {cell.PRELOAD!r}:
    importlib.import_module(name)
tasks = [path for path in Path("/proc/self/task").iterdir() if path.name != str(os.getpid())]
threads = {{(path / "comm").read_text().strip() for path in tasks}} - {{"jemalloc_bg_thd"}}
sys.exit(str(threads) if threads else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
