"""A sweep on a real Slurm of one machine: jobs that fail, are preempted or cancelled, and what the records say then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_machine
from commands import fill
from slurm_machine import SlurmMachine

COMMAND = str(Path(sys.executable).parent / "kto-bench")
RATES = ("1e-3", "2e-3", "3e-3", "4e-3", "5e-3")
HOPELESS = "1e30"  # training diverges
LOSS = """
import os, time
from pathlib import Path
from kto_bench.losses.kto import KTO

class Watched(KTO):
    '''KTO that says in which job it is at work, and takes its time while there is a file called slow.'''

    def __call__(self, *batch):
        if Path("slow").exists():
            Path("at-work-{SLURM_ARRAY_TASK_ID}-{SLURM_JOB_ID}".format(**os.environ)).touch()
            time.sleep(0.4)
        return super().__call__(*batch)
"""
Records = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmMachine]:
    """A running Slurm. It is installed first where that is allowed: a test does not change a machine unasked."""
    allowed = os.environ.get("KTO_BENCH_INSTALL_SLURM") == "1" or os.environ.get("CI") == "true"
    if slurm_machine.missing() and allowed:
        slurm_machine.install()
    reason = slurm_machine.missing()
    if reason:
        pytest.skip(f"{reason}; KTO_BENCH_INSTALL_SLURM=1 lets this test install it")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: it holds a socket
    try:
        with SlurmMachine(folder) as machine:
            yield machine
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with a checkpoint, feedback and a loss of its own."""
    fill(tmp_path)
    (tmp_path / "my_loss.py").write_text(LOSS)
    return tmp_path


def command(sweep: str, rates: tuple[str, ...], *more: str) -> list[str]:
    return [
        COMMAND, "-m", *more,
        "model=hub", "model.path=./checkpoint", "model.name=tiny",
        "feedback=jsonl", "feedback.path=pairs.jsonl", "feedback.heldout_fraction=0.2",
        "start=base", "loss=kto", "loss._target_=my_loss.Watched",
        f"train.learning_rate={','.join(rates)}", "train.steps=8", "train.completions_per_step=8",
        "evaluation.generation.max_new_tokens=4", "tracking=none", f"sweep={sweep}",
    ]  # fmt: skip


ON_SLURM = (
    "hydra/launcher=slurm",
    "hydra.launcher.partition=main",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.signal_delay_s=60",
)


def records(work: Path, sweep: str) -> Records:
    """Everything in a sweep's records that two launches must agree on, by learning rate."""
    found = {}
    for folder in sorted((work / "results" / sweep).iterdir()):
        config = json.loads((folder / "config.json").read_text())
        metrics = folder / "metrics.jsonl"
        found[f"{config['train']['learning_rate']:.0e}".replace("e-0", "e-").replace("e+", "e")] = {
            "status": json.loads((folder / "status.json").read_text()),
            "metrics": metrics.read_text() if metrics.exists() else None,
            "completions": (folder / "completions.jsonl").read_text()
            if (folder / "completions.jsonl").exists()
            else None,
            "folder": folder,
        }
    return found


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 150) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return found


def test_a_sweep_with_a_failing_two_preempted_and_a_cancelled_cell(slurm: SlurmMachine, work: Path) -> None:
    launch = command("jobs", (*RATES, HOPELESS), *ON_SLURM)

    def states(sweep: str) -> dict[str, str]:
        return {rate: one["status"]["state"] for rate, one in records(work, sweep).items()}

    def at_work() -> dict[int, str]:
        """Slurm's number of every job that has begun to train, by its place in the array, which is that of its cell."""
        names = (path.name.split("-") for path in work.glob("at-work-*"))
        return {int(place): job for _, _, place, job in names}

    (work / "slow").touch()
    process = subprocess.Popen(
        launch, cwd=work, env=slurm.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: len(at_work()) >= 2, process)
        time.sleep(1)  # some steps
        (first, told), (second, terminated) = sorted(at_work().items())[:2]
        # To the step: of a whole array's job, scancel of Slurm 22.05 says that it is in transition, and tries for ever.
        slurm.run("scancel", "--signal=USR2", f"{told}.0")  # what Slurm does before the time limit
        slurm.run("scancel", "--signal=TERM", f"{terminated}.0")  # what it does when it wants the machine for others

        def is_requeued(job: str) -> bool:
            return "Restarts=1" in slurm.run("scontrol", "--oneliner", "show", "job", job)

        wait_for(lambda: is_requeued(told) and is_requeued(terminated), process)
        preempted = [one for one in records(work, "jobs").values() if one["status"]["state"] == "preempted"]
        assert preempted
        assert all(re.match(r"step \d of 8 is saved", one["status"]["reason"]) for one in preempted)
        third = wait_for(lambda: set(at_work()) - {first, second}, process).pop()
        array = slurm.run("squeue", "--noheader", "--format=%F").split()[0]
        slurm.run("scancel", f"{array}_{third}")
        wait_for(lambda: [*states("jobs").values()].count("preempted"), process)
        (work / "slow").unlink()
        _, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 1, errors  # one failed

    ended = states("jobs")
    assert ended == {**dict.fromkeys(RATES, "done"), RATES[third]: "preempted", HOPELESS: "failed"}, errors
    assert "TrainingDivergedError" in records(work, "jobs")[HOPELESS]["status"]["traceback"]
    logs = "".join(path.read_text() for path in (work / "artifacts" / "hydra" / "jobs").rglob("*_log.*"))
    assert logs.count("training goes on from step") == 2, logs  # what a job says as it ends may be lost

    again = subprocess.run(launch, cwd=work, env=slurm.environment, capture_output=True, text=True, timeout=200)
    assert again.returncode == 1  # one has failed, and is left alone
    assert states("jobs") == {**dict.fromkeys(RATES, "done"), HOPELESS: "failed"}, again.stderr
    assert len(list((work / "artifacts" / "hydra" / "jobs" / "slurm").glob("*/*_log.err"))) == 6 + 1

    disturbed = tuple(RATES[place] for place in (first, second, third))
    undisturbed = subprocess.run(
        command("here", disturbed, f"artifacts={work / 'others'}"),
        cwd=work, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert undisturbed.returncode == 0, undisturbed.stderr
    on_slurm, here = records(work, "jobs"), records(work, "here")
    assert set(here) == set(disturbed)
    for rate in disturbed:
        assert on_slurm[rate]["metrics"] == here[rate]["metrics"], rate
        assert on_slurm[rate]["completions"] == here[rate]["completions"], rate
