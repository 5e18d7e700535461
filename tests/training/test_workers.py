"""Runs whose stages are shared by worker processes, through the command, against the same run by one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from engine import rows
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from kto_bench.training import workers

COMMAND = str(Path(sys.executable).parent / "kto-bench")


def arguments(*overrides: str) -> list[str]:
    return [
        "model=hub",
        "model.name=tiny",
        "model.path=./checkpoint",
        "feedback=jsonl",
        "feedback.path=pairs.jsonl",
        "start=base",
        "evaluation.prompts=null",
        "evaluation.judge=null",
        "train.completions_per_step=8",
        "train.learning_rate=1e-3",
        "tracking=none",
        *overrides,
    ]


def start(
    folder: Path, overrides: Sequence[str], flags: Sequence[str] = (), **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *flags, *arguments(*overrides)],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    """The messages of a command that ended with the ``expected`` status."""
    try:
        _, messages = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == expected, messages
    return messages


def record(folder: Path, sweep: str) -> Path:
    (found,) = (folder / "results" / sweep).iterdir()
    return found


def weights(folder: Path, artifacts: str, checkpoint: str = ".") -> dict[str, torch.Tensor]:
    (found,) = (path for path in (folder / artifacts / "align").iterdir() if path.is_dir())
    assert not list((folder / artifacts / "align").glob("*.saved")), "states are removed once the artifact is whole"
    return load_file(found / checkpoint / "model.safetensors")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    tiny_model().save_pretrained(folder / "checkpoint")
    tiny_tokenizer().save_pretrained(folder / "checkpoint")
    pairs = [{"prompt": f"w{i}", "chosen": f"w{i + 2} w{i + 3}", "rejected": f"w{i} w{i} w{i}"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return folder


def test_sigterm_to_two_workers_then_one_process_goes_on(folder: Path) -> None:
    """What was begun by two processes and finished by one has the numbers of one undisturbed process."""
    options = ["loss=simpo", "train.steps=150", "train.max_grad_norm=0.1"]
    finish(start(folder, [*options, "sweep=whole", "artifacts=whole"]))
    # As a multirun of one cell, which needs no launcher either.
    two = [*options, "sweep=two", "artifacts=two"]
    process = start(folder, [*two, "train.processes_per_node=2"], flags=["-m"])
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        found = list((folder / "results" / "two").glob("*/metrics.jsonl"))
        if found and len(found[0].read_text().splitlines()) >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "is saved; the same command goes on from there" in finish(process, 128 + signal.SIGTERM)
    assert json.loads((record(folder, "two") / "status.json").read_text())["state"] == "preempted"
    done = len(rows(record(folder, "two") / "metrics.jsonl"))
    assert 3 <= done < 150
    messages = finish(start(folder, two))
    assert "goes on from step" in messages
    metrics, expected = (rows(record(folder, sweep) / "metrics.jsonl") for sweep in ("two", "whole"))
    assert [row["step"] for row in metrics] == list(range(1, 151))
    assert [row["loss"] for row in metrics] == pytest.approx([row["loss"] for row in expected], rel=1e-4, abs=1e-4)
    assert [row["loss"] for row in metrics[:10]] == pytest.approx([row["loss"] for row in expected[:10]], abs=1e-5)


def test_two_machines_share_a_sharded_run_with_adapters(folder: Path) -> None:
    """Two commands with NODE_RANK 0 and 1, of one worker each; the second leaves no record of its own."""
    options = ["loss=dpo", "train.steps=6", "train.lora={rank: 4, alpha: 8}", "evaluation.at_steps=[3]"]
    finish(start(folder, [*options, "sweep=alone", "artifacts=alone"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = [*options, "sweep=machines", "artifacts=machines", "train.nodes=2", "train.sharding=full"]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    machines = [start(folder, shared, NODE_RANK=str(rank), **place) for rank in (1, 0)]
    for machine in machines:
        finish(machine)
    metrics, expected = (rows(record(folder, sweep) / "metrics.jsonl") for sweep in ("machines", "alone"))
    for row, wanted in zip(metrics, expected, strict=True):
        row.pop("rewards/accuracy"), wanted.pop("rewards/accuracy")  # at a margin of 0 it is a matter of rounding
        assert row == pytest.approx(wanted, rel=1e-5, abs=1e-5)
    for checkpoint in (".", "step-3"):
        assert_close(weights(folder, "machines", checkpoint), weights(folder, "alone", checkpoint))


def test_sigterm_before_the_workers_listen_is_a_preemption_too(folder: Path) -> None:
    options = ["loss=sft", "train.steps=5", "sweep=early", "artifacts=early", "train.processes_per_node=2"]
    process = start(folder, options)
    assert process.stderr is not None
    while "align: started" not in (line := process.stderr.readline()):
        assert line, "the stage began"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)
    assert json.loads((record(folder, "early") / "status.json").read_text())["state"] == "preempted"


def test_machines_that_came_for_different_stages_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two runs of equally shaped models would otherwise mix their gradients."""
    job = workers.Job({}, "align", "abc", tmp_path, {}, 1, 2, {})
    for others, equal in ((("align", "abc"), True), (("align", "def"), False), (("start", "abc"), False)):

        def gather(everyone: list[object], mine: object, others: object = others) -> None:
            everyone[:] = [mine, others]

        monkeypatch.setattr(workers.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(workers.dist, "all_gather_object", gather)
        with nullcontext() if equal else pytest.raises(RuntimeError, match="different stages"):
            workers._check_that_all_came_for(job)


def test_a_failing_worker_fails_the_run_with_its_reason(folder: Path) -> None:
    options = ["loss=sft", "train.steps=5", "train.learning_rate=1e30", "train.warmup_fraction=0"]
    finish(start(folder, [*options, "sweep=failing", "artifacts=failing", "train.processes_per_node=2"]), 1)
    status = json.loads((record(folder, "failing") / "status.json").read_text())
    assert status["state"] == "failed"
    assert "TrainingDivergedError: step" in status["reason"]
    assert "process " in status["reason"]
    assert "Traceback" in status["traceback"]


def test_the_address_of_the_first_machine_is_asked_for(folder: Path) -> None:
    options = ["loss=sft", "train.steps=2", "train.nodes=2", "sweep=lost", "artifacts=lost"]
    messages = finish(start(folder, options, MASTER_ADDR="", SLURM_LAUNCH_NODE_IPADDR=""), 2)
    assert "train.nodes: 2 machines" in messages
    assert not (folder / "results" / "lost").exists()
