"""A run from configuration to record, on a tiny checkpoint and a few rows of feedback."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from small_run import MakeConfig, shorter
from wandb_file import summarise

from analysis.report import main as report
from kto_bench.component import ConfigError
from kto_bench.mirror import wandb_id
from kto_bench.preemption import Preempted
from kto_bench.results import Sweep
from kto_bench.run import describe, execute
from kto_bench.store import Store
from kto_bench.tracking import check_tracking

VOLATILE = {"status.json", "timing.json", "environment.json", "config.json"}


def read(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return json.loads(path.read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """What must be the same for the same work."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in VOLATILE}


def test_a_run_leaves_a_whole_record(make: MakeConfig) -> None:
    config = make("start=sft", "start.train.steps=2")
    assert execute(config) == "done"
    plan, record = describe(config)
    assert read(record.folder / "status.json")["state"] == "done"
    run = read(record.folder / "run.json")
    assert run["run"] == record.folder.name == plan.name
    assert run["labels"] == {"loss": "kto", "start": "sft", "model": "tiny", "feedback": "jsonl", "seed": 0}
    stages = "checkpoint feedback tokens tokens/demonstrations sft reference mismatched_reference align generate judge"
    assert set(run["stages"]) == set(stages.split())
    assert [row["step"] for row in read(record.folder / "metrics.jsonl")] == [1, 2, 3]
    data = read(record.folder / "data.json")
    assert data["kind"] == "paired"
    assert data["rows"] + data["heldout_rows"] == 40
    assert data["truncated"] == {"prompt": 0, "completion": 0}
    assert data["warnings"] == []
    assert data["parameters"]["total"] > data["parameters"]["without_embeddings"] > 0
    assert data["sft"].pop("used")["updates"] == 2
    assert data["sft"] == {"truncated": {"prompt": 0, "completion": 0}, "warnings": []}
    timing = read(record.folder / "timing.json")["align"]
    assert timing["tokens_per_second"] > 0
    assert timing["padding_share"] == 0
    completions, judgements = (read(record.folder / f"{name}.jsonl") for name in ("completions", "judgements"))
    assert len(completions) == len(judgements) == data["heldout_rows"]
    scores = read(record.folder / "scores.json")
    expected = [{1.0: 1.0, 1.5: 0.5, 2.0: 0.0}[shorter("", row["completion"], row["reference"])] for row in completions]
    assert [row["preference"] for row in judgements] == expected
    assert scores["head_to_head"]["win_rate"] == pytest.approx(sum(expected) / len(expected))
    assert scores["guards"]["n"] == len(completions)
    assert read(record.folder / "config.json")["loss"]["beta"] == 0.1


def test_a_relaunch_computes_nothing_and_touches_nothing(make: MakeConfig) -> None:
    execute(make())
    _, record = describe(make())
    before = {path: path.stat().st_mtime_ns for path in record.folder.iterdir()}
    assert execute(make()) == "cached"
    assert {path: path.stat().st_mtime_ns for path in record.folder.iterdir()} == before


def test_a_lost_record_is_rebuilt_from_the_artifacts(make: MakeConfig) -> None:
    execute(make())
    _, record = describe(make())
    before = contents(record.folder)
    (record.folder / "status.json").unlink()
    (record.folder / "metrics.jsonl").write_text("half a li")
    assert execute(make()) == "done"
    assert contents(record.folder) == before
    assert all(stage["cached"] for stage in read(record.folder / "timing.json")["stages"].values())


def test_the_same_work_elsewhere_gives_the_same_record(make: MakeConfig, tmp_path: Path) -> None:
    elsewhere = make(f"artifacts={tmp_path / 'other'}", f"results={tmp_path / 'others'}")
    execute(make())
    execute(elsewhere)
    one, two = describe(make())[1].folder, describe(elsewhere)[1].folder
    assert one.name == two.name
    assert contents(one) == contents(two)


def test_stages_are_shared_by_losses_weights_and_sweeps(make: MakeConfig, tmp_path: Path) -> None:
    """KTO with another weight, beta or learning rate, in another sweep, does no reference forward of its own."""
    execute(make())
    variants = [
        make("loss.desirable_weight=2.0"),
        make("loss.beta=0.3", "sweep=other"),
        make("train.learning_rate=1e-3"),
        make("loss=dpo"),
    ]
    for variant in variants:
        plan, record = describe(variant)
        store = Store(tmp_path / "artifacts")
        missing = {name for name, stage in plan.stages.items() if not store.has(stage)}
        assert missing == {"align", "generate", "judge"}
        assert execute(variant) == "done"
        assert record.folder.exists()


CHANGES = {
    "loss.beta=0.2": {"align"},
    "train.learning_rate=1e-3": {"align"},
    "train.max_completion_tokens=5": {"tokens", "reference", "mismatched_reference", "align"},
    "train.steps=4": {"mismatched_reference", "align"},
    "train.completions_per_step=4": {"mismatched_reference", "align"},
    "feedback.limit=30": {"feedback", "tokens", "reference", "mismatched_reference", "align", "generate", "judge"},
    "model.chat_template=plain": {"checkpoint", "tokens", "reference", "mismatched_reference", "align"},
    "seed=1": {"mismatched_reference", "align", "generate", "judge"},
    "evaluation.generation.temperature=0.5": {"generate", "judge"},
    "evaluation.judge.name=renamed": set(),
    "train.micro_batch_size=2": set(),
    "sweep=other": set(),
    "tracking=offline": set(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_reaches_exactly_the_stages_that_it_changes(make: MakeConfig, change: str) -> None:
    before, after = (describe(make(*overrides))[0] for overrides in ([], [change]))
    changed = {name for name in before.stages if before.fingerprints[name] != after.fingerprints[name]}
    # What comes after the policy changes with it.
    expected = CHANGES[change] | ({"generate", "judge"} if "align" in CHANGES[change] else set())
    assert changed == expected
    assert (before.name == after.name) == (not expected)


def test_without_a_loss_the_start_itself_is_evaluated(make: MakeConfig) -> None:
    config = make("loss=none")
    assert execute(config) == "done"
    plan, record = describe(config)
    assert set(plan.stages) == {"checkpoint", "feedback", "generate", "judge"}
    assert not (record.folder / "metrics.jsonl").exists()


def test_a_failed_run_keeps_its_traceback_and_is_run_again(make: MakeConfig) -> None:
    """A learning rate that sends the weights to infinity: the run fails with step and ids, and leaves no artifact."""
    config = make("train.learning_rate=1e38", "train.max_grad_norm=1e38", "train.warmup_fraction=0.0")
    assert execute(config) == "failed"
    plan, record = describe(config)
    status = read(record.folder / "status.json")
    assert status["state"] == "failed"
    assert "TrainingDivergedError: step 2" in status["reason"]
    assert "Traceback" in status["traceback"]
    assert not Store(config.run.artifacts).has(plan.stages["align"])
    assert execute(config) == "failed", "a failed run is not taken for a finished one"


def test_an_interrupt_is_recorded_and_passed_on(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kto_bench.run._run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(make())
    assert read(describe(make())[1].folder / "status.json")["state"] == "preempted", "a relaunch goes on with it"


@pytest.mark.parametrize(
    ("overrides", "state", "exit_code"),
    [([], "done", 0), (["train.learning_rate=1e38", "train.max_grad_norm=1e38"], "failed", 1)],
)
def test_wandb_mirrors_offline_and_is_closed(
    make: MakeConfig, tmp_path: Path, overrides: list[str], state: str, exit_code: int
) -> None:
    config = make("tracking=offline", f"tracking.folder={tmp_path / 'wandb'}", "train.warmup_fraction=0.0", *overrides)
    assert execute(config) == state
    plan, _ = describe(config)
    (file,) = (tmp_path / "wandb").rglob("*.wandb")
    assert wandb_id("adhoc", plan.fingerprint) in file.name
    mirrored = summarise(file)
    assert mirrored["exit_code"] == exit_code
    assert mirrored["group"] == "adhoc"
    assert {"loss", "label_loss", "label_start", "label_model", "label_seed", "sweep"} <= mirrored["config"]
    if state == "done":
        assert mirrored["steps"] == 3
        assert "guards/mean_tokens" in mirrored["summary"]


def test_a_run_survives_the_loss_of_wandb(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def unreachable(**options: object) -> None:
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb, "init", unreachable)
    assert execute(make("tracking=offline")) == "done"
    assert "goes on without it: CommError: no network" in capsys.readouterr().err


def test_online_tracking_without_a_key_is_refused_and_never_asks(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"tracking\.mode: 'online' needs a W&B key"):
        check_tracking(make("tracking=wandb").tracking)
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ConfigError, match=r"needs a W&B key that it can use \(.+\); set WANDB_API_KEY or"):
        check_tracking(make("tracking=wandb").tracking)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    check_tracking(make("tracking=wandb").tracking)
    monkeypatch.delenv("WANDB_API_KEY")
    # What `wandb login` leaves behind: for W&B's present address, its old one, or a server of one's own.
    for base_url, host in (
        (None, "api.forge.coreweave.com"),
        (None, "api.wandb.ai"),
        ("http://wandb.lab:8080", "wandb.lab:8080"),
    ):
        (tmp_path / "none").write_text(f"machine {host} login user password {'x' * 40}\n")
        with monkeypatch.context() as patch:
            patch.setenv("WANDB_BASE_URL", base_url) if base_url else patch.delenv("WANDB_BASE_URL", raising=False)
            check_tracking(make("tracking=wandb").tracking)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_policy_and_reference_agree_at_the_start_in_either_precision(make: MakeConfig, precision: str) -> None:
    """DPO begins at log 2 (up to the rounding of bf16, since batches are cut differently for the reference)."""
    config = make("loss=dpo", f"train.precision={precision}")
    assert execute(config) == "done"
    first = read(describe(config)[1].folder / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6 if precision == "fp32" else 1e-3)


def test_sequences_longer_than_the_model_are_refused_by_name(make: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(
        "".join(  # whichever of the prompts is held out
            json.dumps({"prompt": f"w{i} " * 200, "chosen": "w2 " * 90, "rejected": "w3"}) + "\n" for i in range(8)
        )
    )
    config = make(f"feedback.path={tmp_path / 'long.jsonl'}", "loss=dpo")
    assert execute(config) == "failed"
    reason = read(describe(config)[1].folder / "status.json")["reason"]
    assert "train.max_prompt_tokens" in reason
    assert "the model has 256 positions" in reason
    assert execute(make(f"feedback.path={tmp_path / 'long.jsonl'}", "loss=dpo", "train.max_prompt_tokens=64")) == "done"


def test_a_new_loss_is_one_file_and_one_yaml(make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's example, as it is printed there: it trains, is in the figures, and passes the tests of all."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code, choice = (re.findall(rf"```{kind}\n(.*?)```", readme, re.DOTALL)[0] for kind in ("python", "yaml"))
    (tmp_path / "my_hinge.py").write_text(code)
    shutil.copytree(ROOT / "conf", tmp_path / "conf", symlinks=True)
    (tmp_path / "conf" / "loss" / "hinge.yaml").write_text(choice.replace("kto_bench.losses.hinge", "my_hinge"))
    monkeypatch.syspath_prepend(tmp_path)
    config = make(f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "loss=hinge")
    assert execute(config) == "done"
    sweep = Sweep.load("adhoc", results=tmp_path / "results")
    assert sweep.runs["loss"].tolist() == ["hinge"]
    assert sweep.training["training_loss"].iloc[0] == pytest.approx(1.0)
    assert sweep.training["training_loss"].iloc[-1] != pytest.approx(1.0)
    monkeypatch.chdir(tmp_path)
    assert report(["adhoc"]) == 0
    assert "hinge" in (tmp_path / "reports" / "adhoc" / "index.html").read_text(encoding="utf-8")
    assert report(["halo", "--config-dir", str(tmp_path / "conf"), "--loss", "hinge", "dpo"]) == 0
    verdicts = (tmp_path / "reports" / "halo" / "tables" / "halo_verdicts.csv").read_text(encoding="utf-8")
    assert [line.split(",")[0] for line in verdicts.splitlines()[1:]] == ["hinge", "dpo"]
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    tests = [f"tests/losses/test_loss_{name}.py" for name in ("conformance", "laws")]
    passed = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "hinge", *tests],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{tmp_path / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert passed.returncode == 0, passed.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", passed.stdout)[1]) > 15


def test_editing_a_loss_of_ones_own_trains_again(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And explaining it better does not."""
    parent = "from kto_bench.losses.dpo import DPO\n\nclass Parent(DPO):\n    scale: float = 1\n"
    child = "from my_parent import Parent\n\nclass Mine(Parent):\n    pass\n"
    monkeypatch.syspath_prepend(tmp_path)

    def name(parent: str, child: str) -> str:
        (tmp_path / "my_parent.py").write_text(parent)
        (tmp_path / "my_loss.py").write_text(child)
        return describe(make("loss=dpo", "loss._target_=my_loss.Mine"))[0].name

    first = name(parent, child)
    assert name(f'"""What it is."""\n# Why.\n{parent}', child + "\n\n") == first
    assert name(parent.replace("float = 1", "float = 2"), child) != first
    assert name(parent, child + "    scale: float = 3\n") != first


def test_editing_a_loss_of_the_suite_trains_again(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's place for a new loss is among them."""
    import kto_bench.losses.dpo

    first = describe(make("loss=dpo"))[0].fingerprints
    source = Path(kto_bench.losses.dpo.__file__).read_text(encoding="utf-8")
    read_text = Path.read_text

    def edited(path: Path, *arguments: Any, **named: Any) -> str:
        if path.name != "dpo.py":
            return read_text(path, *arguments, **named)
        assert "F.logsigmoid(chosen_rewards - rejected_rewards)" in source
        return source.replace("F.logsigmoid(chosen_rewards - rejected_rewards)", "F.logsigmoid(chosen_rewards)")

    monkeypatch.setattr(Path, "read_text", edited)
    changed = describe(make("loss=dpo"))[0].fingerprints
    assert changed["align"] != first["align"]
    assert changed["reference"] == first["reference"]


@pytest.mark.parametrize("tracking", [[], ["tracking=offline"]], ids=["untracked", "tracked"])
def test_sigterm_is_recorded_as_preempted_passed_on_and_run_again(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking: list[str]
) -> None:
    """It arrives in the middle of a stage, and again while the run cleans up after itself."""
    stopping = [True]

    def terminated(instruction: str, output_1: str, output_2: str) -> float:
        if not stopping:
            return 1.0
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        return 1.0

    monkeypatch.setattr("small_run.shorter", terminated)
    config = make("loss=none", *tracking, f"tracking.folder={tmp_path / 'wandb'}")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        execute(config)
    assert signal.getsignal(signal.SIGTERM) is handler
    plan, record = describe(config)
    status = read(record.folder / "status.json")
    assert status["state"] == "preempted"
    assert status["reason"] == "SIGTERM; the same command goes on from the last save"
    assert status["traceback"] is None
    assert status["finished"] >= status["started"]
    assert not Store(config.run.artifacts).has(plan.stages["judge"])
    assert not list((tmp_path / "artifacts").rglob("*.partial-*"))
    sweep = Sweep.load("adhoc", results=tmp_path / "results")
    assert sweep.runs["state"].tolist() == ["preempted"]
    assert sweep.outcomes.empty
    if tracking:
        (file,) = (tmp_path / "wandb").rglob("*.wandb")
        assert summarise(file)["exit_code"] == 1

    stopping.clear()
    assert execute(config) == "done"
    assert read(record.folder / "status.json")["state"] == "done"


def test_a_preemption_that_a_library_swallowed_counts_after_the_stage(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(instruction: str, output_1: str, output_2: str) -> float:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return 1.0

    monkeypatch.setattr("small_run.shorter", terminated)
    config = make("loss=none")
    with pytest.raises(Preempted):
        execute(config)
    plan, record = describe(config)
    assert read(record.folder / "status.json")["state"] == "preempted"
    assert Store(config.run.artifacts).has(plan.stages["judge"])
