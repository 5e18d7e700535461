"""kto-bench-status tells what a sweep is at, whatever its records have been through."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import JUDGE, command, fill, run, small, states

from kto_bench.estimate import Cell, History, duration, estimate
from kto_bench.heartbeat import HEARTBEAT, SECONDS_UNTIL_STALE, Heartbeat, is_gone
from kto_bench.status import SweepStatus, main


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def record(
    root: Path, loss: str, state: str, heartbeat: dict[str, Any] | None = None, sweep: str = "s", **status: Any
) -> Path:
    """A record of two stages by hand, as one from another host."""
    folder = root / "results" / sweep / f"{loss}-base-m-s0-aaaa"
    labels = {"loss": loss, "start": "base", "model": "m", "feedback": "f", "seed": 0}
    stages = {"reference": "shared", "align": f"of-{loss}"}
    write(folder / "run.json", {"run": folder.name, "sweep": sweep, "labels": labels, "stages": stages})
    write(folder / "config.json", {"artifacts": str(root / "artifacts")})
    write(folder / "status.json", {"state": state, "host": "elsewhere", "pid": 1, **status})
    if heartbeat is not None:
        write(folder / HEARTBEAT, {"host": "elsewhere", "pid": 1, "run_seconds": 60.0, **heartbeat})
    return folder


def artifact(root: Path, stage: str, fingerprint: str, seconds: float) -> None:
    write(root / "artifacts" / stage / fingerprint / "stage.json", {"wall_seconds": seconds})


def shown(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and what --json prints."""
    status = main([*arguments, "--json", "--results", str(root / "results")])
    return status, json.loads(capsys.readouterr().out)


def cells(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cell["loss"]: cell for cell in found["cells"]}


def test_all_that_a_program_may_want_to_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact(tmp_path, "reference", "shared", 30.0)
    artifact(tmp_path, "align", "of-dpo", 100.0)
    at = {"stage": "align", "done": 25, "total": 100, "note": "loss 0.5", "stage_seconds": 50.0}
    times = {"started": "2025-01-01T10:00:00+00:00", "finished": "2025-01-01T10:02:10+00:00"}
    record(tmp_path, "dpo", "done", **times)
    record(tmp_path, "kto", "running", at)
    record(tmp_path, "ipo", "running", {"stage": "reference", "waiting_for": "process 7 on far"})
    record(tmp_path, "slic", "failed", reason="ValueError: first line\nsecond", traceback="Traceback")
    record(tmp_path, "sft", "pending")
    record(tmp_path, "ppo", "skipped", reason="train.steps: no")
    record(tmp_path, "orpo", "preempted", reason="SIGTERM")
    status, found = shown(tmp_path, capsys)
    assert status == 1
    assert found["sweep"] == "s"
    assert found["totals"] == {"running": 2, "failed": 1, "preempted": 1, "pending": 1, "skipped": 1, "done": 1}
    of = cells(found)
    assert {loss: cell["state"] for loss, cell in of.items()} == {
        **{"dpo": "done", "kto": "running", "ipo": "running", "slic": "failed"},
        **{"sft": "pending", "ppo": "skipped", "orpo": "preempted"},
    }
    assert {key: of["kto"][key] for key in ("stage", "done", "total", "note", "host", "seconds")} == {
        **{"stage": "align", "done": 25, "total": 100, "note": "loss 0.5", "host": "elsewhere", "seconds": 60.0}
    }
    assert of["kto"]["seconds_left"] == 150.0, "three times as long as the first quarter took"
    assert of["ipo"]["waiting_for"] == "process 7 on far"
    assert of["sft"]["seconds_left"] == 100.0, "as long as another loss took; the reference is there"
    assert of["dpo"]["seconds"] == 130.0
    assert of["dpo"]["seconds_left"] is None
    assert of["slic"]["reason"] == "ValueError: first line"
    assert of["slic"]["traceback_in"].endswith("status.json")
    assert found["left_unknown"] == {}
    # 150 + 3 * 100 of work for the one that works
    assert found["seconds_left"] == 450.0

    assert main(["s", "--results", str(tmp_path / "results")]) == 1
    table = capsys.readouterr().out
    for text in ("slic-base-m-s0-aaaa: ValueError: first line", "align 25/100", "2 running, 1 failed", "about 8 min"):
        assert text in " ".join(table.split()), table


def test_an_old_heartbeat_is_stale_by_the_clock_of_the_file_system(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, fresh = (record(tmp_path, loss, "running", {"stage": "align"}) for loss in ("dpo", "kto"))
    past = time.time() - SECONDS_UNTIL_STALE - 5
    for name in (HEARTBEAT, "status.json"):
        os.utime(old / name, (past, past))
    os.utime(fresh / "status.json", (past, past))
    for wrong in (0.0, 1e6, -1e6):  # this host's clock is right, ahead, set back
        real = time.time()
        monkeypatch.setattr(time, "time", lambda wrong=wrong, real=real: real + wrong)
        _, found = shown(tmp_path, capsys)
        monkeypatch.undo()
        assert {loss: cell["state"] for loss, cell in cells(found).items()} == {"dpo": "stale", "kto": "running"}
    assert "no sign of life" in cells(found)["dpo"]["reason"]


def test_a_dead_process_of_this_host_is_stale_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = {"host": socket.gethostname()}
    record(tmp_path, "dpo", "running", {**here, "pid": gone.pid})
    record(tmp_path, "kto", "running", {**here, "pid": os.getpid()})
    record(tmp_path, "ipo", "running", {**here, "pid": gone.pid, "pid_namespace": "of another container"})
    record(tmp_path, "sft", "running", **here | {"pid": gone.pid})  # killed before its first beat
    _, found = shown(tmp_path, capsys)
    found_states = {loss: cell["state"] for loss, cell in cells(found).items()}
    assert found_states == {"dpo": "stale", "kto": "running", "ipo": "running", "sft": "stale"}
    assert not is_gone({"host": "elsewhere", "pid": gone.pid})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no status": lambda folder: (folder / "status.json").unlink(),
    "half a status": lambda folder: (folder / "status.json").write_text('{"state": "do'),
    "a status that is a list": lambda folder: (folder / "status.json").write_text("[1]"),
    "an unknown state": lambda folder: (folder / "status.json").write_text('{"state": "flying"}'),
    "a state that is a list": lambda folder: (folder / "status.json").write_text('{"state": ["done"]}'),
    "not text": lambda folder: (folder / "status.json").write_bytes(b"\xff\xfe\x00"),
    "no run": lambda folder: (folder / "run.json").unlink(),
    "labels that are text": lambda folder: (folder / "run.json").write_text('{"labels": "dpo"}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_told_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    DAMAGE[damage](record(tmp_path, "dpo", "done"))
    record(tmp_path, "kto", "done")
    status, found = shown(tmp_path, capsys)
    assert (status, found["totals"]) == (0, {"unreadable": 1, "done": 1})
    assert "launch the sweep again" in found["cells"][0]["reason"]


@pytest.mark.parametrize(
    "heartbeat",
    [{"stage": 3, "done": "many", "total": None}, {"done": 0, "total": 0, "stage_seconds": "x"}, {"run_seconds": []}],
)
def test_a_strange_heartbeat_costs_only_what_it_would_have_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], heartbeat: dict[str, Any]
) -> None:
    folder = record(tmp_path, "kto", "running", heartbeat)
    for text in (json.dumps(heartbeat), '{"stage": "al'):
        (folder / HEARTBEAT).write_text(text)
        assert shown(tmp_path, capsys)[1]["totals"] == {"running": 1}
        assert main(["--results", str(tmp_path / "results")]) == 0
        capsys.readouterr()


def test_the_newest_sweep_is_shown_and_an_unknown_one_is_refused_with_the_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for age, sweep in enumerate(("newest", "older", "oldest")):
        path = record(tmp_path, "dpo", "done", sweep=sweep) / "status.json"
        os.utime(path, (1e9 - age, 1e9 - age))
    assert shown(tmp_path, capsys)[1]["sweep"] == "newest"
    assert shown(tmp_path, capsys, "older")[1]["sweep"] == "older"
    assert main(["nope", "--results", str(tmp_path / "results")]) == 2
    assert "no sweep 'nope'" in (told := capsys.readouterr().err)
    assert "newest, older, oldest" in told
    assert main(["--results", str(tmp_path / "nowhere")]) == 2


def test_estimates_take_the_closest_relatives_count_shared_stages_once_and_respect_chains(tmp_path: Path) -> None:
    def run_of(model: str, loss: str, fingerprint: str) -> None:
        labels = {"loss": loss, "model": model, "start": "base", "feedback": "f", "seed": 0}
        write(
            tmp_path / "results" / "s" / fingerprint / "run.json", {"labels": labels, "stages": {"align": fingerprint}}
        )

    for fingerprint, model, loss, seconds in (
        ("a", "small", "kto", 10.0),
        ("b", "small", "kto", 20.0),
        ("c", "small", "kto", 60.0),
        ("d", "small", "dpo", 5.0),
        ("e", "large", "dpo", 1000.0),
    ):
        run_of(model, loss, fingerprint)
        artifact(tmp_path, "align", fingerprint, seconds)
    (tmp_path / "artifacts" / "align" / "damaged").mkdir()
    (tmp_path / "artifacts" / "align" / "damaged" / "stage.json").write_text('{"wall_')
    history = History(tmp_path / "artifacts", tmp_path / "results")
    kto, ipo = {"model": "small", "loss": "kto"}, {"model": "small", "loss": "ipo"}
    assert history.seconds("align", kto) == 20.0
    assert history.seconds("align", ipo) == 15.0, "the median of all losses on the same model"
    assert history.seconds("align", {"model": "new", "loss": "kto"}) == 20.0, "the median of all"
    assert history.seconds("sft", kto) is None

    todo = [Cell(kto, {"sft": "x", "align": name}) for name in ("new1", "new2", "a")]
    found = estimate(todo, history, workers=1)
    assert (found.work, found.wall, dict(found.unknown), found.rough) == (40.0, 40.0, {"sft": 1}, False)
    assert str(found) == "about 40 s; no estimate for 1 sft"
    assert estimate(todo, history, workers=8).wall == 20.0, "no faster than one cell"
    assert "another size" in str(estimate([Cell({"model": "new", "loss": "kto"}, {"align": "n"})], history))
    assert [duration(seconds) for seconds in (0, 89, 90, 3599, 12000, 180000)] == [
        *("0 s", "89 s", "2 min", "1 h 0 min", "3 h 20 min", "2 d 2 h")
    ]


def test_the_heart_beats_while_the_run_is_at_work_and_not_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kto_bench.heartbeat.SECONDS_BETWEEN_BEATS", 0.02)
    path = tmp_path / HEARTBEAT
    with Heartbeat(tmp_path) as heartbeat:
        heartbeat.stage("align")
        heartbeat.progress(3, 9, "loss 1")
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["done"] != 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        told = json.loads(path.read_text())
        assert (told["stage"], told["total"], told["note"], told["pid"]) == ("align", 9, "loss 1", os.getpid())
        heartbeat.waiting("judge", "process 1 on far")
        assert json.loads(path.read_text())["waiting_for"] == "process 1 on far"
        heartbeat.stage("judge")
        assert json.loads(path.read_text())["waiting_for"] is None
    assert list(tmp_path.iterdir()) == []


def test_a_heart_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    with Heartbeat(tmp_path / "nowhere") as heartbeat:
        heartbeat.stage("align")


def test_a_sweep_at_work_is_told_from_a_killed_one(tmp_path: Path) -> None:
    """The judge of the first cell waits for us; then everything is killed, and a relaunch ends what it began."""
    folder = fill(tmp_path)
    launch = ["-m", *small("loss=none", "seed=0,1", "sweep=held", *JUDGE)]
    (folder / "hold").touch()
    sweep = subprocess.Popen(
        command("kto-bench", *launch), cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline, found = time.monotonic() + 120, {"cells": []}
    try:
        while not any(cell["stage"] == "judge" for cell in found["cells"]) and time.monotonic() < deadline:
            time.sleep(0.2)
            done = run(folder, "held", "--json", name="kto-bench-status")
            found = json.loads(done.stdout) if done.returncode == 0 else found
        assert found["totals"] == {"running": 1, "pending": 1}
    finally:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
    deadline = time.monotonic() + 20
    while found["totals"] != {"stale": 1, "pending": 1} and time.monotonic() < deadline:
        time.sleep(0.2)
        found = SweepStatus.read(folder / "results" / "held").plain()
    assert found["totals"] == {"stale": 1, "pending": 1}
    (folder / "hold").unlink()
    assert run(folder, *launch).returncode == 0
    assert set(states(folder, "held").values()) == {"done"}


def test_it_starts_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, kto_bench.status; sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
