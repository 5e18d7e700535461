"""SIGTERM as an exception, at once or when it suits."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from kto_bench.preemption import EXIT_STATUS, Preempted, Preemption


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)  # Python handles signals between two instructions


@pytest.fixture(autouse=True)
def stray() -> Iterator[list[int]]:
    """A SIGTERM that nothing under test handles must not end the tests; it is noted here."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = signal.signal(signal.SIGTERM, note)
    yield noted
    assert signal.getsignal(signal.SIGTERM) is note, "the handler from before is back"
    signal.signal(signal.SIGTERM, before)


def test_sigterm_is_raised_at_once_and_no_except_exception_swallows_it() -> None:
    reached = []

    def work() -> None:
        try:
            terminate()
        except Exception:
            reached.append("swallowed")
        reached.append("went on")

    with pytest.raises(Preempted, match="SIGTERM"), Preemption() as preemption:
        work()
    assert reached == []
    assert preemption.requested


def test_the_signal_of_slurm_is_as_good_and_its_handler_comes_back() -> None:
    noted: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: noted.append(number))

    def told_by_slurm() -> None:
        with Preemption() as preemption, preemption.deferred():
            signal.raise_signal(signal.SIGUSR2)
            terminate()  # it sends both

    try:
        with pytest.raises(Preempted, match="SIGUSR2"):
            told_by_slurm()
        assert noted == []
        signal.raise_signal(signal.SIGUSR2)
        assert noted == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_without_sigterm_nothing_happens(stray: list[int]) -> None:
    with Preemption() as preemption:
        with preemption.deferred():
            pass
        preemption.check()
    assert not preemption.requested
    terminate()
    assert stray == [signal.SIGTERM]


def test_deferred_it_only_sets_requested_until_the_end() -> None:
    reached = []

    def work(preemption: Preemption) -> None:
        with preemption.deferred():
            with preemption.deferred():
                assert not preemption.requested
                terminate()
                assert preemption.requested
            reached.append("inner end")
        reached.append("outer end")

    with pytest.raises(Preempted), Preemption() as preemption:
        work(preemption)
    assert reached == ["inner end"]


def test_who_looks_may_raise_it_with_words_of_its_own() -> None:
    def work(preemption: Preemption) -> None:
        with preemption.deferred():
            terminate()
            if preemption.requested:
                raise Preempted("step 3 is saved")

    with pytest.raises(Preempted, match="step 3 is saved"), Preemption() as preemption:
        work(preemption)


def test_an_error_while_deferred_passes_and_is_not_replaced() -> None:
    def work() -> None:
        terminate()
        raise ValueError("planted")

    with Preemption() as preemption:
        with pytest.raises(ValueError, match="planted"), preemption.deferred():
            work()
        with pytest.raises(Preempted):
            preemption.check()


def test_cleaning_up_is_not_interrupted_by_more_sigterms(stray: list[int]) -> None:
    reached = []

    def work(preemption: Preemption) -> None:
        try:
            terminate()
        finally:
            terminate()
            with preemption.deferred():
                terminate()
            preemption.check()
            reached.append("cleaned up")

    with pytest.raises(Preempted), Preemption() as preemption:
        work(preemption)
    assert reached == ["cleaned up"]
    assert stray == []


def test_one_that_a_library_swallowed_is_not_raised_twice_but_remembered() -> None:
    with Preemption() as preemption:
        with suppress(BaseException):
            terminate()
        preemption.check()
        assert preemption.requested


def test_the_inner_of_two_is_told() -> None:
    with Preemption() as outer:
        with pytest.raises(Preempted), Preemption() as inner:
            terminate()
        assert (outer.requested, inner.requested) == (False, True)
        with pytest.raises(Preempted):
            terminate()
        assert outer.requested


def test_in_another_thread_it_does_nothing(stray: list[int]) -> None:
    found = []

    def work() -> None:
        with Preemption() as preemption, preemption.deferred():
            terminate()
            time.sleep(0.2)
            found.append(preemption.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert stray == [signal.SIGTERM]


def sleeps_until_preempted(path: Path) -> None:
    with Preemption():
        try:
            path.with_suffix(".ready").touch()  # within: the signal may follow at once
            time.sleep(60)
        except Preempted:
            time.sleep(0.5)
            path.write_text("saved")


def test_workers_are_told_and_waited_for(tmp_path: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=sleeps_until_preempted, args=(tmp_path / "worker",))
    worker.start()
    while not (tmp_path / "worker.ready").exists():
        time.sleep(0.01)
    with Preemption(workers=True) as preemption:
        terminate()
        worker.join(30)
        assert (tmp_path / "worker").read_text() == "saved"
        with pytest.raises(Preempted):
            preemption.check()


SCRIPT = """
import sys, time
from kto_bench.preemption import EXIT_STATUS, Preempted, Preemption

try:
    with Preemption() as preemption:
        if sys.argv[1] == "deferred":
            with preemption.deferred():
                print("ready", flush=True)
                while not preemption.requested:
                    time.sleep(0.01)
                print("looked", flush=True)
        else:
            print("ready", flush=True)
            time.sleep(60)
except Preempted:
    print("preempted", flush=True)
    sys.exit(EXIT_STATUS)
"""


@pytest.mark.parametrize(("mode", "printed"), [("at once", "preempted\n"), ("deferred", "looked\npreempted\n")])
def test_a_process_that_another_one_ends(mode: str, printed: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, mode], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == printed
    assert process.returncode == EXIT_STATUS == 143


JUDGE = """
import os, time
from pathlib import Path

def prefer(instruction, a, b):
    if Path("slow").exists():
        Path(f"judging-{os.getpid()}").touch()
        time.sleep(120)
    return 1 if len(a) <= len(b) else 2
"""


@pytest.mark.parametrize(
    ("mode", "cells", "at_once"),
    [
        ([], ["seed=0"], 1),
        (["-m"], ["seed=0,1"], 1),
        (["-m", "hydra/launcher=processes", "hydra.launcher.n_jobs=2"], ["seed=0,1,2"], 2),
        (["-m", "hydra/launcher=processes", "hydra.launcher.n_jobs=3"], ["seed=0,1"], 2),
    ],
    ids=["one run", "one after another", "workers", "an idle worker"],
)
def test_a_command_that_another_process_ends_goes_on_when_it_is_given_again(
    tmp_path: Path, checkpoint: Path, mode: list[str], cells: list[str], at_once: int
) -> None:
    """SIGTERM while a judge works: its runs are preempted, no other is begun, and the same command does the rest."""
    (tmp_path / "my_judge.py").write_text(JUDGE)
    rows = [{"prompt": f"w{i}", "chosen": f"w{i + 2} w{i + 3}", "rejected": f"w{i} w{i}"} for i in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        str(Path(sys.executable).parent / "kto-bench"),
        *mode,
        "loss=none",
        "start=base",
        "model=hub",
        "model.path=./checkpoint",
        "model.name=tiny",
        "feedback=jsonl",
        "feedback.path=pairs.jsonl",
        "feedback.heldout_fraction=0.2",
        "evaluation.generation.max_new_tokens=4",
        "evaluation.generation.temperature=1.0",  # otherwise the seed changes nothing
        "judge@evaluation.judge=callable",
        "evaluation.judge.function=my_judge.prefer",
        "tracking=none",
        "sweep=stopped",
        *cells,
    ]

    def states() -> list[str]:
        found = (tmp_path / "results" / "stopped").glob("*/status.json")
        return sorted(json.loads(path.read_text())["state"] for path in found)

    (tmp_path / "slow").touch()
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while len(list(tmp_path.glob("judging-*"))) < at_once and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=100)[1]
    assert time.monotonic() - started < 60, "it did not wait for the judge"
    assert process.returncode == EXIT_STATUS, errors
    assert "preempted: SIGTERM; the same command goes on from the last save" in errors.splitlines()
    assert "Traceback" not in errors
    count = len(cells[0].split(","))
    assert states() == sorted(["preempted"] * at_once + ["pending"] * (count - at_once))
    for path in (tmp_path / "results" / "stopped").glob("*/status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "pending":
            continue
        assert status["finished"] is not None
        assert status["reason"].startswith("SIGTERM")
        assert status["traceback"] is None

    (tmp_path / "slow").unlink()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert states() == ["done"] * count
