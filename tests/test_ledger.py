"""A sweep is announced, relaunched, retried and planned as docs/sweeps.md says."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from commands import JUDGE, everything, fill, run, small, states
from filelock import FileLock
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from places import ROOT
from small_run import MakeConfig

from kto_bench.composition import Composer
from kto_bench.config import resolve
from kto_bench.record import Record
from kto_bench.results import Sweep
from kto_bench.run import describe, lock_of
from kto_bench.sweep import _announce


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder; the tests of this file share its artifacts."""
    return fill(tmp_path_factory.mktemp("work"))


def status(folder: Path, sweep: str, beginning: str) -> dict[str, Any]:
    (path,) = (folder / "results" / sweep).glob(f"{beginning}*/status.json")
    return json.loads(path.read_text())


def test_cells_are_composed_as_hydra_composes_them() -> None:
    """For every loss and start, models with and without tuned settings, and values of several kinds."""
    losses = sorted(path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml"))
    others = itertools.cycle(
        [f"model={model}", f"start={start}", *more]
        for model in ("sandbox_small", "pythia_1_4b")
        for start in ("base", "sft")
        for more in (["seed=1"], ["train.steps=3", "++train.lora={rank: 4}"])
    )
    cells = [[f"loss={loss}", *other] for loss, other in zip(losses, others, strict=False)]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composer = Composer("config")
        for cell in [*cells, *([*cell[:3], "seed=2", "~retry"] for cell in cells[:4])]:  # same choices
            ours, hydras = composer.compose(cell), compose("config", cell)
            assert OmegaConf.to_container(ours) == OmegaConf.to_container(hydras), cell
            assert OmegaConf.is_struct(ours)
        with pytest.raises(Exception, match="beat"):
            composer.compose(["loss.beat=1"])


def test_a_relaunch_of_fifty_finished_cells_is_quick_and_touches_nothing_but_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {"loss": "none,sft,dpo,kto,simpo", "start": "base,sft", "seed": "0,1,2,3,4"}
    monkeypatch.chdir(folder)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composer = Composer("config")
        for values in itertools.product(*(axis.split(",") for axis in axes.values())):
            chosen = [f"{name}={value}" for name, value in zip(axes, values, strict=True)]
            config = resolve(composer.compose(small("sweep=fifty", *chosen)))
            plan, record = describe(config)
            record.start(plan.labels, plan.fingerprints, config.plain)
            record.done()
    (folder / "artifacts" / "align").mkdir(parents=True, exist_ok=True)
    before = everything(folder / "results", folder / "artifacts")
    started = time.monotonic()
    done = run(folder, "-m", *small("sweep=fifty", *(f"{name}={values}" for name, values in axes.items())))
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert "50 cells, 50 already done, 0 to do" in done.stderr
    assert everything(folder / "results", folder / "artifacts") == before
    assert seconds < 15 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), f"took {seconds:.1f} s"


def test_the_plan_of_a_large_study_needs_no_model_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models = "pythia_1_4b,pythia_2_8b,pythia_6_9b,pythia_12b,llama_7b,llama_13b,llama_30b"
    started = time.monotonic()
    done = run(tmp_path, "--plan", "-m", f"model={models}", "loss=dpo,kto,slic,csft,ppo,sft", "start=base,sft")
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    assert "84 cells, 0 already done" in done.stdout
    assert "7 checkpoint, " in done.stdout
    assert "7 sft, " in done.stdout
    assert "no estimate for " in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert seconds < 20 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), f"took {seconds:.1f} s"


def test_editing_a_sweep_file_neither_renames_nor_reruns_cells(folder: Path) -> None:
    """The plan says what is new, and how long it will take going by what was done."""
    sweeps = folder / "conf" / "sweeps"
    sweeps.mkdir(parents=True)
    launch = ["-m", "hydra.searchpath=[file://conf]", "+sweeps=mine", *small("sweep=edited")]

    def write(seeds: str) -> None:
        text = f"# @package _global_\nhydra:\n  sweeper:\n    params:\n      loss: none,kto\n      seed: {seeds}\n"
        (sweeps / "mine.yaml").write_text(text)

    write("0")
    first = run(folder, *launch)
    assert first.returncode == 0, first.stderr
    before = everything(folder / "results" / "edited")
    assert states(folder, "edited") == {"none-base-tiny-s0": "done", "kto-base-tiny-s0": "done"}

    write("0,1")
    planned = run(folder, *launch, "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "4 cells, 2 already done, 2 to do" in planned.stdout
    assert "1 feedback (1 there)" in planned.stdout
    assert "2 align (1 there)" in planned.stdout
    assert "time: about" in planned.stdout
    assert "no estimate" not in planned.stdout
    assert everything(folder / "results" / "edited") == before

    second = run(folder, *launch)
    assert second.returncode == 0, second.stderr
    after = everything(folder / "results" / "edited")
    assert {path: after[path] for path in before} == before
    expected = [f"{loss}-base-tiny-s{seed}" for loss in ("kto", "none") for seed in (0, 1)]
    assert sorted(states(folder, "edited")) == expected


def test_failed_cells_are_left_alone_by_a_relaunch_and_run_by_retry_failed(folder: Path) -> None:
    cells = small("loss=none", "sweep=retried", *JUDGE)
    (folder / "broken").touch()
    first = run(folder, "-m", *cells)
    assert first.returncode == 1
    assert states(folder, "retried") == {"none-base-tiny-s0": "failed"}
    assert "RuntimeError: broken is there" in status(folder, "retried", "none")["traceback"]
    (folder / "broken").unlink()

    before = everything(folder / "results" / "retried")
    second = run(folder, "-m", *cells)
    assert second.returncode == 1
    assert "1 failed before and left alone (retry=failed runs them again)" in second.stderr
    assert "failed: see" in second.stderr
    assert everything(folder / "results" / "retried") == before

    third = run(folder, "-m", *cells, "retry=failed")
    assert third.returncode == 0, third.stderr
    assert states(folder, "retried") == {"none-base-tiny-s0": "done"}


def test_refused_cells_are_skipped_with_the_reason_if_wanted_and_run_once_they_can_be(folder: Path) -> None:
    (folder / "later.jsonl").unlink(missing_ok=True)
    cells = small("loss=none", "feedback.path=pairs.jsonl,later.jsonl", "sweep=skips")
    stopped = run(folder, "-m", *cells)
    assert stopped.returncode == 2
    assert not (folder / "results" / "skips").exists()

    first = run(folder, "-m", *cells, "refused=skip")
    assert first.returncode == 0, first.stderr
    assert "1 refused and skipped" in first.stderr
    records = [json.loads(path.read_text()) for path in (folder / "results" / "skips").glob("*/status.json")]
    (skipped,) = [record for record in records if record["state"] == "skipped"]
    assert sorted(record["state"] for record in records) == ["done", "skipped"]
    assert "later.jsonl does not exist" in skipped["reason"]
    assert sorted(Sweep.load("skips", folder / "results").runs["state"]) == ["done", "skipped"]
    before = everything(folder / "results" / "skips")
    again = run(folder, "-m", *cells, "refused=skip")
    assert again.returncode == 0, again.stderr
    assert everything(folder / "results" / "skips") == before

    (folder / "later.jsonl").write_text((folder / "pairs.jsonl").read_text().replace("w39", "w38"))
    second = run(folder, "-m", *cells)
    assert second.returncode == 0, second.stderr
    records = [json.loads(path.read_text()) for path in (folder / "results" / "skips").glob("*/status.json")]
    assert [record["state"] for record in records] == ["done", "done"]


def test_a_results_folder_that_cannot_be_written_to_is_one_message(folder: Path) -> None:
    (folder / "a_file").touch()
    done = run(folder, "-m", *small("loss=none", "results=a_file"))
    assert done.returncode == 2
    assert "kto-bench: results: 'a_file'" in done.stderr
    assert "Traceback" not in done.stderr


def test_announcing_loses_nothing(make: MakeConfig) -> None:
    """No record of another kind becomes pending but a failed one that is to be retried, which keeps its traceback."""
    plain, retrying = make(), make("retry=failed")
    plan, record = describe(plain)
    assert describe(retrying)[1].folder == record.folder, "how to launch is no part of the work"
    _announce(plain, plan, record)
    assert record.state() == "pending"
    for state, leave in (("preempted", Record.preempted), ("failed", Record.failed)):
        record.start(plan.labels, plan.fingerprints, plain.plain)
        _announce(retrying, plan, record)
        assert record.state() == "running"
        leave(record, RuntimeError("planted"))  # type: ignore[arg-type]
        before = everything(record.folder)
        _announce(plain, plan, record)
        assert everything(record.folder) == before, state
    with FileLock(lock_of(plain, plan)):  # another launch is at it
        _announce(retrying, plan, record)
    assert record.state() == "failed"
    _announce(retrying, plan, record)
    assert record.state() == "pending"
    assert "planted" in (record.status() or {})["traceback"]


def test_a_pending_run_takes_no_other_runs_place_in_tables(make: MakeConfig, tmp_path: Path) -> None:
    """After the code has changed, the old run stays in the report until the new one has begun."""
    config = make()
    plan, record = describe(config)
    record.start(plan.labels, plan.fingerprints, config.plain)
    record.done()
    Record(record.folder.with_name("kto-base-tiny-s0-new"), "kto-base-tiny-s0-new", "adhoc", "new").pending(
        plan.labels, plan.fingerprints, config.plain
    )
    runs = Sweep.load("adhoc", tmp_path / "results").runs
    assert dict(zip(runs["run"], runs["state"], strict=True)) == {plan.name: "done", "kto-base-tiny-s0-new": "pending"}
    assert set(runs["method"]) == {"kto"}
