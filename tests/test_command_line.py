"""The commands as a user types them, in processes of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import JUDGE, command, fill, run, small, states
from places import ROOT

VOLATILE = {"status.json", "timing.json", "environment.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder; the tests of this file share its artifacts."""
    return fill(tmp_path_factory.mktemp("work"))


def test_help_shows_commands_choices_and_fields(folder: Path) -> None:
    done = run(folder, "--help")
    assert done.returncode == 0
    for text in (
        "kto-bench -m +sweeps=quickstart",
        "loss: apo_down, apo_zero",
        "quickstart, ",
        "--plan -m",
        "learning_rate:",
        "Exit status",
    ):
        assert text in done.stdout


def test_cfg_job_shows_the_configuration_and_runs_nothing(folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "loss=dpo", "loss.beta=0.2", "--cfg", "job")
    assert done.returncode == 0
    assert "beta: 0.2" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss.beat=1"], "loss.beat: unknown field"),
        (["loss=dpo", "train.completions_per_step=3"], "train.completions_per_step: 3 is odd"),
        (["-m", "loss=dpo,kto", "train.steps=0"], "train.steps: 0 is not allowed"),
    ],
    ids=str,
)
def test_a_refused_configuration_is_one_message_and_exit_status_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert f"kto-bench: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "artifacts" / "align").exists()


def test_several_processes_for_one_run_are_refused_rather_than_left_waiting_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run(tmp_path, "loss=kto")
    assert done.returncode == 2
    assert "WORLD_SIZE: 2 processes" in done.stderr


def test_a_multirun_finishes_what_can_be_finished_and_tells_what_failed(folder: Path) -> None:
    """One failing cell of four: the others finish, its traceback is in its folder, and the exit status is 1."""
    cells = small("loss=dpo,kto", "train.learning_rate=1e-3,1e38", "train.max_grad_norm=1e38", "sweep=mixed")
    done = run(folder, "-m", *cells)
    assert done.returncode == 1
    found = [json.loads(path.read_text()) for path in (folder / "results" / "mixed").glob("*/status.json")]
    assert sorted(status["state"] for status in found) == ["done", "done", "failed", "failed"]
    for status in found:
        assert ("TrainingDivergedError" in (status["traceback"] or "")) == (status["state"] == "failed")
    assert "failed: see" in done.stderr


def test_a_multirun_in_worker_processes_and_its_relaunch(folder: Path) -> None:
    workers = ["hydra/launcher=processes", "hydra.launcher.n_jobs=2"]
    cells = small("loss=none,dpo,kto", "seed=0,1", *JUDGE, *workers)
    first = run(folder, "-m", *cells)
    assert first.returncode == 0, first.stderr
    assert states(folder, "small") == {
        f"{loss}-base-tiny-s{s}": "done" for loss in ("none", "dpo", "kto") for s in (0, 1)
    }
    times = {path: path.stat().st_mtime_ns for path in (folder / "results" / "small").rglob("*") if path.is_file()}
    second = run(folder, "-m", *cells)
    assert second.returncode == 0, second.stderr
    assert "6 cells, 6 already done" in second.stderr
    assert "started" not in second.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    report = run(folder, "small", name="kto-bench-report")
    assert report.returncode == 0, report.stderr
    assert (folder / "reports" / "small" / "index.html").stat().st_size > 10_000


def contents(folder: Path) -> dict[str, bytes]:
    """All of a sweep's records that must be the same for the same work."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in VOLATILE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def count(folder: Path) -> int:
    """The number of files below a folder while others write and rename them."""
    return sum(len(files) for _, _, files in os.walk(folder))


def test_kill_9_at_random_moments_and_relaunch_ends_with_the_same_records(folder: Path) -> None:
    """A sweep is killed three times while it works; an undisturbed one is the yardstick."""
    cells = small("loss=none,dpo,kto,simpo", "seed=0,1")
    places = {
        name: ["sweep=killed", f"artifacts={name}/artifacts", f"results={name}/results"] for name in ("calm", "rough")
    }
    assert run(folder, "-m", *cells, *places["calm"]).returncode == 0
    moments = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            command("kto-bench", "-m", *cells, *places["rough"]),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Whatever the machine's speed: wait for the first sign of new work, then a random while.
        before = count(folder / "rough")
        deadline = time.monotonic() + 120
        while count(folder / "rough") <= before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert run(folder, "-m", *cells, *places["rough"]).returncode == 0
    calm, rough = (contents(folder / name / "results") for name in ("calm", "rough"))
    paths = [path for path in calm if path.endswith("config.json")]
    for path in paths:  # the configuration names the folders themselves
        calm[path] = calm[path].replace(b"calm/", b"rough/")
    assert len(paths) == 8
    assert rough == calm
    assert not list((folder / "rough" / "artifacts").rglob("*.partial-*"))


def test_the_readme_and_sweeps_name_choices_that_exist() -> None:
    sweeps = [path.stem for path in (ROOT / "sweeps").glob("*.yaml")]
    assert "quickstart" in sweeps
    assert (ROOT / "conf" / "sweeps" / "quickstart.yaml").resolve() == ROOT / "sweeps" / "quickstart.yaml"
