"""Feedback on policy: rounds of sampling, annotating and aligning, on an ordinary checkpoint."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from safetensors.torch import load_file
from small_run import MakeConfig

from kto_bench.component import ConfigError
from kto_bench.config import Config, resolve
from kto_bench.feedback.annotation import EQUAL, annotated, candidates_of, prompts_at, summary_of
from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.feedback.types import Demonstration, FeedbackError
from kto_bench.lines import read_lines
from kto_bench.run import describe, execute
from kto_bench.store import Store
from kto_bench.training.loop import Trainer

WEIGHTS = "model.safetensors"


class Longer(Annotator):
    """Likes completions with more words; equals by the alphabet, so that nothing is drawn."""

    name: str = "longer"

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        return [_key(one.completions[0]) > _key(one.completions[1]) for one in shown]

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        return [[_key(text)[0] > 5 for text in one.completions] for one in shown]

    def scores(self, shown: Sequence[Candidates]) -> list[list[dict[str, float]]]:
        return [[{"words": float(_key(text)[0])} for text in one.completions] for one in shown]


class Pleased(Longer):
    """Approves of everything."""

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        return [[True for _ in one.completions] for one in shown]


def _key(text: str) -> tuple[int, str]:
    return len(text.split()), text


def words(instruction: str, completion: str) -> dict[str, float]:
    """A judge's score of one completion."""
    return {"words": float(len(completion.split()))}


@pytest.fixture
def on_policy(make: MakeConfig, tmp_path: Path, checkpoint: Path) -> MakeConfig:
    """A configuration of a small run with feedback on policy; ``annotator`` is a class of this file."""

    def config(*overrides: str, annotator: str = "Longer") -> Config:
        chosen = any(one.startswith("annotator@") for one in overrides)
        own = ["~feedback.annotator", f"+feedback.annotator={{_target_: test_on_policy.{annotator}}}"]
        base = [
            "model=hub",
            f"model.path={checkpoint}",
            "model.name=tiny",
            "feedback=on_policy",
            "feedback@feedback.source=jsonl",
            f"feedback.source.path={tmp_path / 'pairs.jsonl'}",
            "feedback.source.heldout_fraction=0.2",
            "feedback.generation.max_new_tokens=8",
            *([] if chosen else own),
            "start=base",
            "loss=dpo",
            "train.steps=6",
            "train.completions_per_step=8",
            "train.learning_rate=1e-3",
            "evaluation.generation.max_new_tokens=8",
            "evaluation.judge=null",
            "tracking=none",
            f"artifacts={tmp_path / 'artifacts'}",
            f"results={tmp_path / 'results'}",
        ]
        return resolve(compose("config", [*base, *overrides]))

    return config


def done(config: Config) -> Path:
    folder = describe(config)[1].folder
    assert execute(config) == "done", (folder / "status.json").read_text()
    return folder


def artifact(config: Config, stage: str = "align") -> Path:
    return Store(config.run.artifacts).folder(describe(config)[0].stages[stage])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("loss", "kind"), [("dpo", "paired"), ("kto", "binary"), ("humanline_dpo", "paired"), ("humanline_kto", "paired")]
)
def test_on_the_same_completions_many_rounds_are_one(on_policy: MakeConfig, loss: str, kind: str) -> None:
    """With a staleness of all rounds every completion is the start's, so that only the dealing into rounds differs."""
    settings = [f"loss={loss}", f"feedback.kind_of_feedback={kind}", "train.learning_rate=1e-3"]
    if "humanline" in loss:
        settings.append("loss.sync_steps=4")  # a sync before, in and between rounds
    one = on_policy(*settings)
    many = on_policy(*settings, "feedback.rounds=3", "feedback.staleness=3")
    online = on_policy(*settings, "feedback.rounds=online", "feedback.staleness=6")
    expected = read_lines(done(one) / "metrics.jsonl")
    weights = load_file(artifact(one) / WEIGHTS)
    for other in (many, online):
        found = read_lines(done(other) / "metrics.jsonl")
        assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
        for row, wanted in zip(found, expected, strict=True):
            assert row == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        trained = load_file(artifact(other) / WEIGHTS)
        for name, weight in weights.items():
            assert trained[name].sub(weight).abs().max() < 2e-6, name


def test_fresh_rounds_ask_the_policy_of_the_round_before(on_policy: MakeConfig) -> None:
    fresh, stale = on_policy("feedback.rounds=3"), on_policy("feedback.rounds=3", "feedback.staleness=1")
    plan = describe(fresh)[0].stages
    asked = [plan[f"sample/round-{number}"].inputs["policy"].label for number in (1, 2, 3)]
    assert asked == ["checkpoint", "align/round-1", "align/round-2"]
    plan = describe(stale)[0].stages
    asked = [plan[f"sample/round-{number}"].inputs["policy"].label for number in (1, 2, 3)]
    assert asked == ["checkpoint", "checkpoint", "align/round-1"]
    previous = describe(on_policy("feedback.rounds=3", "feedback.reference=previous"))[0].stages
    whose = [previous[f"reference/round-{number}"].inputs["policy"].label for number in (1, 2, 3)]
    assert whose == ["checkpoint", "align/round-1", "align/round-2"]
    assert "align" in plan, "the last round's policy is the run's"


def test_the_record_tells_of_all_rounds(on_policy: MakeConfig) -> None:
    config = on_policy("feedback.rounds=3", "evaluation.at_steps=[0,2,3]")
    folder = done(config)
    data, report = read(folder / "data.json"), read(folder / "data_report.json")
    assert [one["round"] for one in data["rounds"]] == [1, 2, 3]
    assert [one["completions"] for one in data["rounds"]] == [16, 16, 16]
    assert all(one["scores"]["words"] > 0 for one in data["rounds"])
    assert data["used"]["updates"] == 6
    assert data["used"]["completions"] == 48
    assert {"annotate/round-1", "tokens/round-3"} <= set(report)
    rows = [read_lines(artifact(config, f"sample/round-{number}") / "completions.jsonl") for number in (1, 2, 3)]
    prompts = [json.dumps(row["prompt"]) for of in rows for row in of[::2]]
    # 40 prompts less the held-out ones: no prompt is asked twice before each has been asked once.
    assert len(set(prompts)) == len(prompts) == 24
    steps = [one["step"] for one in read(folder / "scores.json")["over_training"]]
    assert steps == [0, 2, 3, 6]


def test_a_binary_loss_that_is_told_one_class_only_goes_on_with_a_warning(on_policy: MakeConfig) -> None:
    config = on_policy("loss=kto", "feedback.kind_of_feedback=binary", "feedback.rounds=2", annotator="Pleased")
    warnings = read(done(config) / "data.json")["warnings"]
    assert any(text.startswith("rounds 1, 2: ") and "none of" in text and "undesirable" in text for text in warnings)


def test_a_round_without_any_pair_makes_no_update(on_policy: MakeConfig) -> None:
    config = on_policy("feedback.rounds=2", "feedback.generation.temperature=0")  # greedy: both samples are the same
    folder = done(config)
    assert read_lines(folder / "metrics.jsonl") == []
    data = read(folder / "data.json")
    assert data["rounds"][0]["dropped"] == {EQUAL: 12}
    assert any("nothing to learn" in text for text in data["warnings"])
    start, end = (load_file(artifact(config, name) / WEIGHTS) for name in ("align/round-1", "align"))
    assert all(start[name].equal(end[name]) for name in start)


def test_a_run_that_is_stopped_in_a_round_goes_on_in_it(on_policy: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["feedback.rounds=2", "train.save_minutes=1e-9"]
    whole = on_policy(*settings)
    expected = read_lines(done(whole) / "metrics.jsonl")
    wanted = load_file(artifact(whole) / WEIGHTS)
    elsewhere = [f"{name}={whole.run.artifacts.parent / 'other' / name}" for name in ("artifacts", "results")]
    stopped = on_policy(*settings, *elsewhere)
    gradients = Trainer._gradients

    def stop(self: Trainer, number: int, *rest: Any) -> Any:
        if number == 5:
            raise KeyboardInterrupt
        return gradients(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_gradients", stop)
        with pytest.raises(KeyboardInterrupt):
            execute(stopped)
    numbers: list[int] = []

    def count(self: Trainer, number: int, *rest: Any) -> Any:
        numbers.append(number)
        return gradients(self, number, *rest)

    monkeypatch.setattr(Trainer, "_gradients", count)
    folder = done(stopped)
    assert numbers == [5, 6], "neither the first round nor the step before was done again"
    assert read_lines(folder / "metrics.jsonl") == expected
    found = load_file(artifact(stopped) / WEIGHTS)
    assert all(found[name].equal(wanted[name]) for name in wanted)


@pytest.mark.parametrize("kind", ["paired", "binary"])
def test_a_judge_of_ones_own_annotates(on_policy: MakeConfig, kind: str) -> None:
    config = on_policy(
        "annotator@feedback.annotator=judge",
        "judge@feedback.annotator.judge=callable",
        "feedback.annotator.judge.function=small_run.shorter",
        f"feedback.kind_of_feedback={kind}",
        f"loss={'dpo' if kind == 'paired' else 'kto'}",
        "train.steps=2",
    )
    done(config)
    rows = read_lines(artifact(config, "annotate/round-1") / "train.jsonl")
    assert rows
    if kind == "paired":
        assert all(len(row["chosen"]) <= len(row["rejected"]) for row in rows)
        return
    assert [row["label"] for row in rows].count(True) == len(rows) / 2, "of two completions one wins"
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["label"] != second["label"]
        if len(first["completion"]) != len(second["completion"]):
            assert first["label"] == (len(first["completion"]) < len(second["completion"]))


def test_thumbs_by_a_judges_score(on_policy: MakeConfig) -> None:
    config = on_policy(
        "annotator@feedback.annotator=judge",
        "judge@feedback.annotator.judge=callable",
        "feedback.annotator.judge.function=small_run.shorter",
        "feedback.annotator.judge.score=test_on_policy.words",
        "feedback.annotator.score=words",
        "feedback.annotator.threshold=3",
        "feedback.kind_of_feedback=binary",
        "feedback.samples_per_prompt=1",
        "loss=kto",
        "train.steps=2",
    )
    done(config)
    rows = read_lines(artifact(config, "annotate/round-1") / "train.jsonl")
    assert all(row["label"] == (len(row["completion"].split()) > 3) for row in rows)


@pytest.mark.parametrize("kind", ["paired", "binary"])
def test_a_reward_model_learns_the_feedback_and_annotates_by_it(
    on_policy: MakeConfig, tmp_path: Path, kind: str
) -> None:
    pairs = [{"prompt": f"w{i}", "chosen": f"w50 w{i % 7}", "rejected": f"w51 w{i % 5}"} for i in range(48)]
    path = tmp_path / "w50_is_better.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    config = on_policy(
        f"feedback.source.path={path}",
        "annotator@feedback.annotator=reward_model",
        "feedback.annotator.train={learning_rate: 1e-2, epochs: 8, pairs_per_step: 8, validation_fraction: 0.2}",
        f"feedback.kind_of_feedback={kind}",
        f"loss={'dpo' if kind == 'paired' else 'kto'}",
        "train.steps=2",
        "feedback.rounds=2",
    )
    done(config)
    facts = read(artifact(config, "reward_model") / "reward_model.json")
    assert facts["validation_accuracy"] == 1.0
    assert facts["last_loss"] < 0.1 < 0.693
    folder = artifact(config, "annotate/round-2")
    rows = read_lines(folder / "train.jsonl")
    scores = [row["reward"] for row in read_lines(folder / "scores.jsonl")]
    if kind == "binary":
        assert [row["label"] for row in rows] == [score > facts["mean"] for score in scores]
        return
    texts = [row["completion"] for row in read_lines(artifact(config, "sample/round-2") / "completions.jsonl")]
    rewards = dict(zip(texts, scores, strict=True))
    for row in rows:
        assert rewards[row["chosen"]] >= rewards[row["rejected"]]


def test_losses_share_what_the_first_round_is_made_of(on_policy: MakeConfig) -> None:
    dpo, simpo = (describe(on_policy(f"loss={loss}", "feedback.rounds=2"))[0].fingerprints for loss in ("dpo", "simpo"))
    for stage in ("sample/round-1", "annotate/round-1", "tokens/round-1"):
        assert dpo[stage] == simpo[stage]
    assert dpo["sample/round-2"] != simpo["sample/round-2"]
    assert describe(on_policy())[0].fingerprints["feedback"] == dpo["feedback"]


def test_hundreds_of_rounds_can_be_planned(on_policy: MakeConfig) -> None:
    plan, _ = describe(on_policy("loss=humanline_dpo", "feedback.rounds=online", "train.steps=150"))
    assert sum(stage.name == "align" for stage in plan.stages.values()) == 150
    assert plan.fingerprint


def test_without_a_loss_the_start_is_evaluated(on_policy: MakeConfig) -> None:
    assert set(describe(on_policy("loss=none"))[0].stages) == {"feedback", "checkpoint", "generate"}


REFUSED = {
    "no number of updates": (["train.steps=null"], r"train\.epochs: .* set train\.steps=N"),
    "a budget of tokens": (["train.steps=null", "budget={tokens: 1000}"], r"train\.budget\.tokens"),
    "more rounds than updates": (["feedback.rounds=7"], r"feedback\.rounds: 7 is more than the 6 updates"),
    "no round": (["feedback.rounds=0"], r"feedback\.rounds.* choose 1 \(offline\)"),
    "an odd number": (["feedback.samples_per_prompt=3"], "cannot be paired"),
    "samples that do not fill": (["feedback.samples_per_prompt=6"], r"completions_per_step: 8 is no multiple"),
    "one prompt per update": (
        ["loss=kto", "feedback.samples_per_prompt=8", "feedback.kind_of_feedback=binary"],
        "choose 16 or more",
    ),
    "a kind that does not serve": (["feedback.kind_of_feedback=binary"], "needs paired feedback"),
    "noise": (["feedback.label_noise=0.1"], "choose an annotator that is noisy"),
    "a part of the source": (["feedback.source.keep_desirable=0.5"], r"feedback\.source: keep_desirable"),
    "two references": (["loss=humanline_dpo", "feedback.reference=previous"], "syncs its reference by itself"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_at_once(on_policy: MakeConfig, case: str) -> None:
    overrides, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        on_policy(*overrides)


def test_a_source_without_pairs_cannot_train_a_reward_model(on_policy: MakeConfig, tmp_path: Path) -> None:
    rows = [{"prompt": f"w{i}", "completion": "w1", "label": bool(i % 2)} for i in range(20)]
    path = tmp_path / "thumbs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"feedback\.annotator: 'reward_model' learns from paired feedback"):
        on_policy("annotator@feedback.annotator=reward_model", f"feedback.source.path={path}")


def test_the_stream_of_prompts_is_passes_over_all_of_them() -> None:
    rows = [Demonstration(str(i), ({"role": "user", "content": f"w{i % 5}"},), "w1") for i in range(8)]
    stream = prompts_at(range(12), rows, seed=3)
    assert stream[:4] + stream[4:9] == prompts_at(range(4), rows, 3) + prompts_at(range(4, 9), rows, 3)
    first, second = ({one[0]["content"] for one in stream[start : start + 5]} for start in (0, 5))
    assert first == second == {f"w{i}" for i in range(5)}
    with pytest.raises(FeedbackError, match=r"feedback\.source"):
        prompts_at(range(1), [], 0)


def test_pairs_of_equal_completions_are_dropped_and_nobody_is_asked() -> None:
    rows = [
        {"prompt_id": f"{place:08d}.{sample}", "prompt": [{"role": "user", "content": "w0"}], "completion": text,
         "tokens": 1, "ended": True}
        for place, texts in enumerate([("w1", "w1"), ("w2", "w3 w4")])
        for sample, text in enumerate(texts)
    ]  # fmt: skip
    feedback = annotated(candidates_of(rows), Longer(), "paired", random.Random(0))
    assert [(row.chosen, row.rejected) for row in feedback.rows] == [("w3 w4", "w2")]
    assert feedback.dropped == {EQUAL: 1}
    assert feedback.first_dropped == {EQUAL: "row 00000000.0"}
    assert summary_of(feedback, rows)["warnings"] == []


class Lazy(Longer):
    """Answers less than it is asked."""

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        return []


def test_an_annotator_that_does_not_answer_is_an_error() -> None:
    shown = [Candidates("0", ({"role": "user", "content": "w0"},), ("w1", "w2"))]
    with pytest.raises(FeedbackError, match=r"choose\(\) of 'longer' gave 0 answers to 1 questions"):
        annotated(shown, Lazy(), "paired", random.Random(0))
