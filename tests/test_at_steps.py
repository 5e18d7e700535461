"""Scores over training: intermediate policies are kept, evaluated like the last one, and end up in the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_run import MakeConfig

from kto_bench.component import ConfigError
from kto_bench.config import Config
from kto_bench.over_training import collect_over_training
from kto_bench.results import Sweep
from kto_bench.run import describe, execute
from kto_bench.store import Store
from kto_bench.training.kept import KeptPolicies

STEPS = "evaluation.at_steps=[0,1,2,3]"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def done(config: Config) -> Path:
    """The folder of the record of a run that has been done now."""
    folder = describe(config)[1].folder
    assert execute(config) == "done", (folder / "status.json").read_text()
    return folder


def artifact(config: Config, stage: str = "align") -> Path:
    return Store(config.run.artifacts).folder(describe(config)[0].stages[stage])


def test_each_step_is_evaluated_and_in_the_record(make: MakeConfig) -> None:
    config = make(STEPS)
    plan, _ = describe(config)
    of_steps = {label for label in plan.stages if "/" in label}
    assert of_steps == {f"{name}/step-{step}" for name in ("generate", "judge", "kl") for step in (0, 1, 2)} - {
        "kl/step-0"
    }, "the last step is the run's own"
    folder = done(config)
    outcomes, last = lines(folder / "over_training.jsonl"), lines(folder / "judgements.jsonl")
    scores = json.loads((folder / "scores.json").read_text())
    over_training = scores["over_training"]
    assert [(one["step"], one["completions"]) for one in over_training] == [(0, 0), (1, 8), (2, 16), (3, 24)]
    assert over_training[-1]["head_to_head"] == scores["head_to_head"]
    assert over_training[0]["kl"] == 0.0
    assert 0 < over_training[1]["kl"] < over_training[3]["kl"]
    prompts = [row["prompt_id"] for row in last]
    for step in range(4):
        rows = [row for row in outcomes if row["step"] == step]
        assert [row["prompt_id"] for row in rows] == prompts, "the same prompts at every step, for paired intervals"
        mean = sum(row["preference"] for row in rows) / len(rows)
        assert mean == over_training[step]["head_to_head"]["win_rate"]
    table = Sweep.load("adhoc", folder.parents[1]).over_training
    assert set(table["step"]) == {0, 1, 2, 3}
    assert set(table["method"]) == {"kto"}


def test_benchmarks_of_each_step_are_put_together(tmp_path: Path) -> None:
    """A stage per task and step, by their labels; a run without completions has no KL and no outcomes."""
    folders = {"align": tmp_path}
    for part, value in {"facts@step-2": 0.0, "words@step-2": 1.0, "facts": 0.5, "words": 1.0}.items():
        folders[f"benchmark/{part}"] = folder = tmp_path / part
        folder.mkdir()
        row = {"task": part.partition("@")[0], "metric": "acc", "doc_id": 0, "value": value}
        (folder / "benchmarks.jsonl").write_text(json.dumps(row) + "\n")
        (folder / "scores.json").write_text(json.dumps({row["task"]: {"acc": value}}))
    metrics = [{"step": step, "completions": 8 * step} for step in (1, 2, 3)]
    scores = collect_over_training(folders, metrics, tmp_path)
    assert [(one["step"], one["completions"], one["kl"]) for one in scores] == [(2, 16, None), (3, 24, None)]
    assert [one["benchmarks"] for one in scores] == [
        {"facts": {"acc": 0.0}, "words": {"acc": 1.0}},
        {"facts": {"acc": 0.5}, "words": {"acc": 1.0}},
    ]
    rows = lines(tmp_path / "benchmarks_over_training.jsonl")
    assert [(row["step"], row["task"], row["value"]) for row in rows] == [
        (2, "facts", 0.0), (2, "words", 1.0), (3, "facts", 0.5), (3, "words", 1.0),
    ]  # fmt: skip
    assert not (tmp_path / "over_training.jsonl").exists()
    assert collect_over_training({"align": tmp_path, "generate": tmp_path}, metrics, tmp_path) == []


def test_the_start_at_step_0_is_that_of_a_run_without_alignment(make: MakeConfig) -> None:
    at_start, alone = describe(make(STEPS))[0].fingerprints, describe(make("loss=none", STEPS))[0].fingerprints
    assert at_start["generate/step-0"] == alone["generate"]
    assert at_start["judge/step-0"] == alone["judge"]
    assert not [label for label in alone if "/" in label], "without an alignment there are no steps"


@pytest.mark.parametrize("lora", ["null", "{rank: 2}"])
def test_what_is_kept_is_the_policy_of_a_shorter_training_and_training_is_as_without(
    make: MakeConfig, lora: str
) -> None:
    settings = [f"train.lora={lora}", "train.schedule=constant", "train.warmup_fraction=0.0"]
    plain, watched, shorter = (make(*settings, *more) for more in ([], ["evaluation.at_steps=[2]"], ["train.steps=2"]))
    for config in (plain, watched, shorter):
        done(config)
    weights = "model.safetensors"
    final, other = (load_file(artifact(config) / weights) for config in (plain, watched))
    assert all(final[name].equal(other[name]) for name in final)
    kept, expected = load_file(artifact(watched) / "step-2" / weights), load_file(artifact(shorter) / weights)
    assert kept.keys() == expected.keys()
    assert all(kept[name].equal(expected[name]) for name in kept)
    assert any(not kept[name].equal(final[name]) for name in kept)


def test_a_step_changes_the_fingerprints_of_what_depends_on_it_alone(make: MakeConfig) -> None:
    plain, watched = (describe(make(*more))[0].fingerprints for more in ([], ["evaluation.at_steps=[1]"]))
    assert {name for name in plain if plain[name] != watched[name]} == {"align", "generate", "judge"}
    assert len({watched["generate"], watched["generate/step-1"]}) == 2, "two checkpoints are two artifacts"
    assert describe(make("evaluation.at_steps=[]"))[0].fingerprints == plain
    at_start = describe(make("evaluation.at_steps=[0]"))[0].fingerprints
    assert at_start["align"] == plain["align"], "the start is there without being kept: nothing is aligned again"


def test_a_training_that_was_stopped_keeps_what_it_had_kept(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("evaluation.at_steps=[1,2]", "train.save_minutes=1e-9")  # a state after every step
    after = KeptPolicies.after

    def stop(self: KeptPolicies, step: int) -> None:
        after(self, step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeptPolicies, "after", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    saved = next(config.run.artifacts.glob("align/*.saved"))
    assert {path.name for path in saved.iterdir()} == {"kept", "step-00000001"}
    assert {path.name for path in (saved / "kept").iterdir()} == {"step-1", "step-2"}
    (saved / "kept" / "step-1" / "seen").touch()
    done(config)
    assert (artifact(config) / "step-1" / "seen").exists(), "training went on from step 1, and did not begin again"
    assert {path.name for path in artifact(config).glob("step-*")} == {"step-1", "step-2"}
    assert not saved.exists()


REFUSED = {
    "beyond the end": (["evaluation.at_steps=[1,4]"], r"evaluation\.at_steps: \[4\] .* which has 3 updates"),
    "negative": (["evaluation.at_steps=[-1]"], "0 or more"),
    "twice": (["evaluation.at_steps=[1,1]"], "distinct"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_evaluated_is_refused(make: MakeConfig, case: str) -> None:
    overrides, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        make(*overrides)


def test_a_step_beyond_the_end_of_epochs_is_refused_before_training(make: MakeConfig) -> None:
    config = make("train.steps=null", "train.epochs=1", "evaluation.at_steps=[1000]")
    assert execute(config) == "failed"
    folder = describe(config)[1].folder
    assert "[1000] is beyond the end of the alignment" in json.loads((folder / "status.json").read_text())["reason"]
    assert not (folder / "metrics.jsonl").exists()


def test_a_policy_that_is_gone_is_told(tmp_path: Path) -> None:
    kept = KeptPolicies(tmp_path, [2, 5], lambda folder: None)
    kept.check(1)
    kept.after(2)
    kept.check(4)
    with pytest.raises(FileNotFoundError, match="the policy of step 5 is not in"):
        kept.check(5)
