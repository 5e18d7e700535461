"""The reference's log-probabilities are computed anew when something that changes them changes, and only then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import MakeConfig
from tiny import tiny_model, tiny_tokenizer

from kto_bench.config import Config
from kto_bench.preemption import Preemption
from kto_bench.run import describe, execute
from kto_bench.screen import Screen
from kto_bench.stages import Stages
from kto_bench.training.config import RESOURCES, TrainConfig
from kto_bench.watch import Watch

BOTH = {"reference", "mismatched_reference"}
MISMATCHED = {"mismatched_reference"}
SFT = ["start=sft", "start.train.steps=2"]


def keys(config: Config) -> dict[str, str]:
    """The keys of both stages, whether or not the configuration's loss needs them."""
    stages = Stages(config, Watch(Screen(""), lambda metrics: None, Preemption()))
    return {stage.name: stage.fingerprint for stage in (stages.reference, stages.mismatched_reference)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


SETTINGS: dict[str, tuple[list[str], set[str]]] = {
    # The tokens of which the log-probabilities are.
    "prompt limit": (["train.max_prompt_tokens=3"], BOTH),
    "completion limit": (["train.max_completion_tokens=3"], BOTH),
    "template": (["model.chat_template=plain"], BOTH),
    "held-out share": (["feedback.heldout_fraction=0.3"], BOTH),
    "rows": (["feedback.limit=30"], BOTH),
    # The model that gives them.
    "precision": (["train.precision=bf16"], BOTH),
    "weights in half precision": (["model.dtype=bfloat16", "train.lora={rank: 2}"], BOTH),
    # The order of the examples, which decides who is paired with whom.
    "seed": (["seed=1"], MISMATCHED),
    "batch": (["train.completions_per_step=4"], MISMATCHED),
    "steps": (["train.steps=4"], MISMATCHED),
    "epochs": (["train.steps=null", "train.epochs=2"], MISMATCHED),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_change_the_keys_that_depend_on_them(make: MakeConfig, case: str) -> None:
    overrides, expected = SETTINGS[case]
    assert changed(keys(make()), keys(make(*overrides))) == expected


START: dict[str, list[str]] = {
    "rate": ["start.train.learning_rate=1e-4"],
    "duration": ["start.train.steps=3"],
    "batch": ["start.train.completions_per_step=4"],
    "schedule": ["start.train.schedule=linear"],
    "optimiser": ["start.train.optimizer=rmsprop"],
    "adapters": ["start.train.lora={rank: 2}"],
    "rank of the adapters": ["start.train.lora={rank: 3}"],
    "seed": ["seed=1"],
    "none": ["start=base", "~start.train.steps"],
}


@pytest.mark.parametrize("case", START)
def test_how_the_start_is_trained_changes_both(make: MakeConfig, case: str) -> None:
    before = keys(make(*SFT, *(["start.train.lora={rank: 2}"] if case == "rank of the adapters" else [])))
    after = keys(make() if case == "none" else make(*SFT, *START[case]))
    assert changed(before, after) == BOTH


def other_weights(folder: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1e-3
    model.save_pretrained(folder)


def other_word(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    assert '"w56"' in text
    (folder / "tokenizer.json").write_text(text.replace('"w56"', '"w57"'))


def other_template(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("'<' +", "'>' +")
    tokenizer.save_pretrained(folder)


def other_hidden_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))


@pytest.mark.parametrize("change", [other_weights, other_word, other_template, other_hidden_setting])
@pytest.mark.parametrize("start", [[], SFT], ids=["base", "sft"])
def test_the_content_of_the_checkpoint_changes_both(
    make: MakeConfig, checkpoint: Path, start: list[str], change: Callable[[Path], None]
) -> None:
    before = keys(make(*start))
    change(checkpoint)
    assert changed(before, keys(make(*start))) == BOTH


@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected"])
def test_the_content_of_the_feedback_changes_both(make: MakeConfig, tmp_path: Path, field: str) -> None:
    before = keys(make())
    file = tmp_path / "pairs.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[7][field] += " w9"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert changed(before, keys(make())) == BOTH


def test_the_content_of_a_template_file_changes_both(make: MakeConfig, tmp_path: Path) -> None:
    file, seen = tmp_path / "mine.jinja", []
    for text in ("{{ messages[0]['content'] }}", "{{ messages[-1]['content'] }}"):
        file.write_text(text)
        seen.append(keys(make(f"model.chat_template={file}")))
    assert changed(*seen) == BOTH


OTHER_RESOURCES: dict[str, Any] = {
    "max_tokens_per_microbatch": 64,
    "micro_batch_size": 2,
    "max_logits": 4096,
    "padding_free": False,
    "gradient_checkpointing": True,
    "compile": True,
    "processes_per_node": 2,
    "nodes": 2,
    "sharding": "full",
    "save_minutes": 1.0,
}
NEITHER: dict[str, list[str]] = {
    "another loss": ["loss=dpo", "train.learning_rate=1e-2"],
    "a loss without reference": ["loss=simpo", "train.learning_rate=1e-2"],
    "beta": ["loss.beta=0.3"],
    "desirable weight": ["loss.desirable_weight=2.0"],
    "undesirable weight": ["loss.undesirable_weight=2.0"],
    "learning rate": ["train.learning_rate=1e-3"],
    "schedule": ["train.schedule=linear"],
    "warm-up": ["train.warmup_fraction=0.5"],
    "optimiser": ["train.optimizer=rmsprop"],
    "weight decay": ["train.weight_decay=0.1"],
    "momentum": ["train.adam_beta1=0.8", "train.adam_beta2=0.99"],
    "clipping": ["train.max_grad_norm=0.5"],
    "adapters on the policy": ["train.lora={rank: 2}"],
    "evaluation": ["evaluation.prompts=null", "evaluation.judge=null"],
    "generation": ["evaluation.generation.temperature=0.5"],
    "judge": ["evaluation.judge.function=os.path.join"],
    "sweep": ["sweep=other"],
    "tracking": ["tracking=offline"],
    "folders": ["artifacts=elsewhere", "results=elsewhere"],
    "labels": ["model.name=renamed", "feedback.name=renamed"],
    **{
        field: [f"train.{field}={value}", *(["train.processes_per_node=2"] if field == "sharding" else [])]
        for field, value in OTHER_RESOURCES.items()
    },
}


def test_every_resource_has_a_case() -> None:
    assert set(OTHER_RESOURCES) == set(RESOURCES)
    defaults = TrainConfig(learning_rate=1.0)
    assert all(getattr(defaults, field) != value for field, value in OTHER_RESOURCES.items())


@pytest.mark.parametrize("case", NEITHER)
def test_what_changes_no_log_probability_changes_neither(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """With SFT too, which shares the resources of the alignment, and must not be trained again for any of these."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    for start in ([], SFT):
        before, after = make(*start), make(*start, *NEITHER[case])
        assert (before.plain, before.model.name) != (after.plain, after.model.name), "the case changes something"
        assert changed(keys(before), keys(after)) == set()


@pytest.mark.parametrize("start", [[], SFT], ids=["base", "sft"])
def test_moving_the_files_changes_neither(make: MakeConfig, tmp_path: Path, checkpoint: Path, start: list[str]) -> None:
    before = keys(make(*start))
    (tmp_path / "elsewhere").mkdir()
    model = checkpoint.rename(tmp_path / "elsewhere" / "model")
    feedback = (tmp_path / "pairs.jsonl").rename(tmp_path / "elsewhere" / "pairs.jsonl")
    assert changed(before, keys(make(*start, f"model.path={model}", f"feedback.path={feedback}"))) == set()


SWEEP: list[list[str]] = [
    [],
    ["loss.beta=0.3"],
    ["loss.desirable_weight=2.0"],
    ["loss.undesirable_weight=0.5"],
    ["train.learning_rate=1e-3"],
    ["train.schedule=constant"],
    ["train.lora={rank: 2}"],
    ["loss=dpo", "train.learning_rate=1e-2"],
    ["loss=dpo", "loss.beta=0.5", "train.learning_rate=1e-3"],
]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The folders to which log-probabilities of the reference were written."""
    import kto_bench.training.reference as reference

    original, calls = reference.save_reference, []

    def counted(folder: Path, *args: Any, **kwargs: Any) -> None:
        calls.append(folder)
        original(folder, *args, **kwargs)

    monkeypatch.setattr(reference, "save_reference", counted)
    return calls


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The weights that were read, from any file by anyone."""
    from transformers import AutoModelForCausalLM

    original, calls = AutoModelForCausalLM.from_pretrained, []

    def counted(path: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(str(path))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    return calls


@pytest.mark.parametrize("start", [[], SFT], ids=["base", "sft"])
def test_a_sweep_asks_the_reference_once_and_a_second_sweep_never(
    make: MakeConfig, start: list[str], forwards: list[Path]
) -> None:
    unevaluated = ["evaluation.prompts=null", "evaluation.judge=null", *start]
    assert execute(make(*unevaluated)) == "done"
    assert [folder.parent.name for folder in forwards] == ["reference", "mismatched_reference"]
    for overrides in SWEEP:
        assert execute(make(*unevaluated, *overrides)) in ("done", "cached")
    for overrides in SWEEP:
        assert execute(make(*unevaluated, *overrides)) == "cached"
        assert execute(make(*unevaluated, *overrides, "sweep=again")) == "done", "its record is made of the artifacts"
    assert len(forwards) == 2


@pytest.mark.parametrize("loss", ["kto", "dpo"])
def test_the_reference_is_not_in_memory_during_alignment(
    make: MakeConfig, forwards: list[Path], loaded: list[str], loss: str
) -> None:
    unevaluated = [f"loss={loss}", "train.learning_rate=1e-3", "evaluation.prompts=null", "evaluation.judge=null"]
    assert execute(make(*unevaluated)) == "done"
    del forwards[:], loaded[:]
    variant = make(*unevaluated, "loss.beta=0.3")
    assert execute(variant) == "done"
    start = variant.run.artifacts / "checkpoint" / describe(variant)[0].fingerprints["checkpoint"]
    assert loaded == [str(start)], "the policy, once"
    assert forwards == []
