"""When a preempted job asks to be queued again. A script stands for Slurm's; test_slurm.py has the real one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kto_bench.preemption import EXIT_STATUS
from kto_bench.requeue import in_a_slurm_job, requeue

Slurm = Callable[[str], None]


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """Stands for submitit's handler; every call is noted."""
    noted: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: noted.append(number))
    yield noted
    signal.signal(signal.SIGUSR2, before)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """In job 7 of submitit, started for the second time; ``slurm(text)`` is what scontrol says of it."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def say(text: str) -> None:
        script = tmp_path / "scontrol"
        script.write_text(f'#!/bin/sh\n[ "$*" = "--oneliner show job 7" ] && echo "{text}"\n')
        script.chmod(0o755)

    return say


def test_a_job_that_runs_is_handed_to_submitit(slurm: Slurm, asked: list[int]) -> None:
    slurm("JobId=7 JobState=RUNNING Reason=None Requeue=1 Restarts=1 BatchFlag=1")
    requeue()
    assert asked == [signal.SIGUSR2]


def test_one_that_slurm_has_requeued_only_leaves(slurm: Slurm, asked: list[int]) -> None:
    slurm("JobId=7 JobState=COMPLETING Reason=None Requeue=1 Restarts=2")
    with pytest.raises(SystemExit) as left:
        requeue()
    assert left.value.code == EXIT_STATUS
    assert asked == []


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "TIMEOUT"])
def test_one_that_was_cancelled_stays_so(slurm: Slurm, asked: list[int], state: str) -> None:
    slurm(f"JobId=7 JobState={state} Reason=None Requeue=1 Restarts=1")
    requeue()
    assert asked == []


def test_where_slurm_does_not_answer_it_is_tried(slurm: Slurm, asked: list[int]) -> None:
    requeue()
    assert asked == [signal.SIGUSR2]


def test_elsewhere_nothing_happens(asked: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not in_a_slurm_job()
    requeue()
    assert asked == []
