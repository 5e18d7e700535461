"""Configuration: every choice composes, and what cannot be run is refused with field, value and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from places import ROOT

from kto_bench.__main__ import explain
from kto_bench.component import ConfigError
from kto_bench.config import Config, resolve
from kto_bench.feedback.types import FeedbackError
from kto_bench.losses import Loss
from kto_bench.machines import check_machines

CONF = ROOT / "conf"


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def config_of(*overrides: str) -> Config:
    return resolve(compose("config", list(overrides)))


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"question {i}", "chosen": "yes", "rejected": "no"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("loss", choices("loss"))
@pytest.mark.parametrize("start", choices("start"))
def test_every_loss_and_start_resolve(loss: str, start: str) -> None:
    config = config_of(f"loss={loss}", f"start={start}")
    assert (config.loss is None) == (loss == "none")
    assert (config.start.train is None) == (start == "base")
    assert config.labels == {
        "loss": loss,
        "start": start.removeprefix("archangel_").removeprefix("ladder_"),  # SFT with other settings is still SFT
        "model": "sandbox_small",
        "feedback": "sandbox",
        "seed": 0,
    }


@pytest.mark.parametrize("model", choices("model"))
def test_every_model_resolves(model: str) -> None:
    more = ["model.path=some/model"] if model == "hub" else []
    if model.startswith("ladder"):  # reads text of the user's
        more = [f"model.corpus.paths={Path(__file__)}"]
    assert config_of(f"model={model}", *more).model.name == model


@pytest.mark.parametrize("tracking", choices("tracking"))
def test_every_tracking_resolves(tracking: str) -> None:
    assert config_of(f"tracking={tracking}").tracking.mode == {"wandb": "online"}.get(tracking, tracking)


def test_feedback_from_files_brings_its_own_evaluation_unless_told_otherwise(pairs: Path) -> None:
    files = ["feedback=jsonl", f"feedback.path={pairs}"]
    assert config_of(*files).evaluation.name == "heldout"
    assert config_of(*files, "evaluation=sandbox").evaluation.name == "sandbox"


REFUSED = {
    "unknown field": (["+loss.beat=3"], r"loss\.beat: unknown field \(value 3\); allowed: beta.*did you mean 'beta'"),
    "wrong type": (["loss.beta=abc"], r"loss\.beta: 'abc' is not allowed: should be a valid number"),
    "out of range": (["train.learning_rate=0"], r"train\.learning_rate: 0 is not allowed: should be greater than 0"),
    "unknown choice": (
        ["train.optimizer=sgd"],
        r"train\.optimizer: 'sgd' is not allowed: should be 'adamw' or 'rmsprop'",
    ),
    "nested": (["evaluation.generation.top_p=2"], r"evaluation\.generation\.top_p: 2 is not allowed"),
    "unknown at the top": (["+colour=red"], r"colour: unknown field \(value 'red'\); allowed: .*seed"),
    "no loss class": (["loss._target_=os.path.join"], r"loss\._target_: 'os\.path\.join' is not a .*Loss"),
    "no such class": (["loss._target_=kto_bench.nowhere.Loss"], r"loss\._target_: cannot import"),
    "a folder as sweep": (["sweep=../elsewhere"], r"sweep: '\.\./elsewhere' is not allowed"),
    "odd pairs": (["loss=dpo", "train.completions_per_step=33"], r"completions_per_step: 33 is odd.*34"),
    "no reference point": (["loss=kto", "train.completions_per_step=1"], r"completions_per_step: 1 is too small"),
    "paired loss, binary feedback": (
        ["loss=dpo", "feedback.kind_of_feedback=binary"],
        r"loss: 'dpo' needs paired feedback, and feedback=sandbox is binary",
    ),
    "unknown benchmark": (["evaluation.benchmarks.tasks=[sandbox_fact]"], r"sandbox_fact.*near: sandbox_facts"),
    "missing path": (["feedback=jsonl"], r"feedback\.path: required"),
    "two budgets": (["train.epochs=3", "train.steps=5"], r"epochs \(3\) and steps \(5\) are both given"),
    "both stages share it": (["train.precision=fp16"], r"^train\.precision: 'fp16' is not allowed"),
    "half precision": (
        ["model=hub", "model.path=a/b", "model.dtype=bfloat16"],
        r"model\.dtype: training needs float32.*dtype=bfloat16 with adapters.* by train\.lora and start\.train\.lora$",
    ),
    "half precision, adapters in one of two trainings": (
        ["model=hub", "model.path=a/b", "model.dtype=bfloat16", "train.lora={rank: 4}"],
        r"model\.dtype: training needs float32.* in every training, by start\.train\.lora$",
    ),
    "float16, adapters": (
        ["model=hub", "model.path=a/b", "model.dtype=float16", "start=base", "train.lora={rank: 4}"],
        r"model\.dtype: training needs float32",
    ),
    "unknown field of the adapters": (
        ["train.lora={rnk: 4}"],
        r"train\.lora\.rnk: unknown field \(value 4\); allowed: alpha, rank, targets; did you mean 'rank'",
    ),
    "sharding for one process": (
        ["train.sharding=full"],
        r"^train\.sharding: 'full' shares the model among processes, and there is one; set train\.processes_per_node",
    ),
    "sharding of one process, in SFT only": (
        ["start.train.sharding=full"],
        r"^start\.train\.sharding: 'full' shares",
    ),
    "other machines for SFT": (
        ["train.nodes=2", "start.train.nodes=1"],
        r"start\.train\.nodes: 1 is not train\.nodes, which is 2: .*choose the same number for both",
    ),
    "nested component": (["evaluation.prompts.count=3000"], r"^evaluation\.prompts\.count: 3000 is not allowed"),
    "name of a report": (["sweep=halo"], r"sweep: 'halo' is not allowed: kto-bench-report halo"),
    "judge without prompts": (["evaluation.prompts=null"], r"evaluation\.judge: needs completions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused(case: str) -> None:
    overrides, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        config_of(*overrides)


class PairedWithKl(Loss):
    """Declares a reference point, for feedback that the mismatched pairs are not made from."""

    feedback: ClassVar = "paired"
    needs_reference: ClassVar = True
    needs_kl: ClassVar = True


def test_a_reference_point_for_pairs_is_refused() -> None:
    """Its mismatched pairs would silently be those of another schedule."""
    with pytest.raises(ConfigError, match=r"'dpo' declares needs_kl.*binary"):
        config_of("loss=dpo", f"loss._target_={__name__}.PairedWithKl", "~loss.beta")


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("empty.jsonl", "missing.jsonl"):
        with pytest.raises((ConfigError, FeedbackError), match=name):
            config_of("feedback=jsonl", f"feedback.path={tmp_path / name}")


def test_heldout_prompts_need_a_heldout_share(pairs: Path) -> None:
    with pytest.raises(ConfigError, match=r"feedback\.heldout_fraction: 0\.0 leaves no held-out prompts"):
        config_of("feedback=jsonl", f"feedback.path={pairs}", "feedback.heldout_fraction=0.0")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.beat=3", r"loss\.beat: unknown field \(in 'loss\.beat=3'\); allowed: .*did you mean 'beta'"),
        ("loss=ktoo", r"(?s)Could not find 'loss/ktoo'.*dpo.*kto"),
        ("modle=x", r"modle: unknown field .*did you mean 'model'"),
    ],
)
def test_hydras_own_complaints_are_made_readable(override: str, message: str) -> None:
    with pytest.raises(HydraException) as caught:
        config_of(override)
    explained = explain(caught.value, [override])
    assert __import__("re").search(message, explained), explained
    assert "search path" not in explained


def test_any_judge_can_take_the_place_of_another() -> None:
    config = config_of("judge@evaluation.judge=callable", "evaluation.judge.function=os.path.commonprefix")
    assert config.evaluation.judge.name == "callable"
    assert config_of("judge@evaluation.judge=none").evaluation.judge is None


def test_every_field_of_train_is_in_the_yaml() -> None:
    """A field that the YAML does not show is one that no user finds."""
    from kto_bench.training.config import TrainConfig

    assert set(compose("config").train) == set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    "overrides",
    [
        ["start=base", "train.lora={rank: 4}"],
        ["train.lora={rank: 4}", "start.train.lora={rank: 8, targets: [q_proj]}"],
        ["loss=none", "start.train.lora={rank: 4}"],
        ["loss=none", "start=base"],
    ],
)
def test_adapters_can_be_trained_on_weights_in_bf16(overrides: list[str]) -> None:
    config = config_of("model=hub", "model.path=a/b", "model.dtype=bfloat16", *overrides)
    assert not config.model.trainable


def test_a_local_adapter_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": "./no/such"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(
        ConfigError, match=r"^model\.path: the adapter .* names the base './no/such', which is no folder"
    ):
        config_of("model=hub", f"model.path={tmp_path}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.processes_per_node=64", "train.completions_per_step=8"],  # some of them get nothing to do
        ["train.processes_per_node=3", "start.train.processes_per_node=1"],
        ["train.nodes=2", "train.sharding=full"],
        ["train.max_tokens_per_microbatch=8", "train.max_logits=1"],  # a longer sequence gets a pass of its own
    ],
)
def test_work_may_be_split_in_any_way_on_a_cpu(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    config_of(*overrides)


def test_there_may_be_no_more_processes_than_gpus_where_the_run_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    few, many = (config_of(f"train.processes_per_node={count}", "start=sft") for count in (4, 8))
    check_machines(1, few.processes)
    with pytest.raises(
        ConfigError, match=r"^train\.processes_per_node: 8 is more than the GPUs .*, which has 4; choose"
    ):
        check_machines(1, many.processes)


def test_a_sweep_s_budget_is_that_of_the_alignment_alone() -> None:
    config = config_of("model=hub", "model.path=org/name", "feedback=sandbox", "start=sft", "budget={updates: 7}")
    assert config.train.fixed_steps == 7
    assert config.start.train is not None
    assert config.start.train.budget is None
    with pytest.raises(ConfigError, match=r"updates and tokens given; give exactly one of completions, updates"):
        config_of("budget={updates: 7, tokens: 7}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds.order=3", "seeds"),
        ("seeds.data_order=-1", r"seeds\.data_order: -1 is not allowed"),
        ("tune={trials: 0}", r"tune\.trials: 0 is not allowed"),
        ("tune={trails: 3}", "tune"),
        ("retry=sometimes", "retry: 'sometimes' is not allowed"),
        ("timeout_minutes=0", "timeout_minutes: 0 is not allowed"),
        ("+evaluation.split=half", r"evaluation\.split: 'half' is not allowed"),
    ],
)
def test_what_is_said_of_a_sweep_is_checked(override: str, message: str) -> None:
    with pytest.raises((ConfigError, HydraException), match=message):
        config_of(override)
