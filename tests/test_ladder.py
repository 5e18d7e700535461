"""The ladder of models from scratch: its sizes, and one of its cells on less of everything."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from places import ROOT
from transformers import AutoConfig, AutoModelForCausalLM

from kto_bench.config import resolve
from kto_bench.lines import read_lines
from kto_bench.run import describe, execute

RUNGS = {"ladder_1m": 1e6, "ladder_3m": 3e6, "ladder_10m": 1e7, "ladder_30m": 3e7, "ladder_100m": 1e8}
MINIMAL_PAIRS = [
    {"sentence_good": "The girl helps herself.", "sentence_bad": "The girl helps himself."},
    {"sentence_good": "Some boys like themselves.", "sentence_bad": "Some boys like himself."},
]
LAST_WORDS = [{"text": "Tim had a dog. Every day Tim went to the park with his dog"}, {"text": "The sun is in the sky"}]


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_has_as_many_parameters_as_its_file_says(name: str) -> None:
    model = compose("config", [f"model={name}"]).model
    fields = dict(model.architecture)
    with torch.device("meta"):
        config = AutoConfig.for_model(fields.pop("model_type"), vocab_size=model.corpus.vocab_size, **fields)
        built = AutoModelForCausalLM.from_config(config)
    total = sum(weight.numel() for weight in built.parameters())
    without = total - built.get_input_embeddings().weight.numel()
    text = (ROOT / "conf" / "model" / f"{name}.yaml").read_text()
    said = [int(number.replace(",", "")) for number in re.findall(r"[\d,]{5,}\d", text)]
    assert said[:2] == [total, without]
    assert said[2] == model.pretrain.tokens == pytest.approx(20 * total, rel=0.03)
    assert total == pytest.approx(RUNGS[name], rel=0.06)
    assert model.pretrain.sequence_tokens == fields["max_position_embeddings"], "every position is trained"


@pytest.fixture
def small(tmp_path: Path, shared: Callable[[str], Path]) -> list[str]:
    """Overrides that make a cell of the sweep small: some stories, 200 pairs, a question or two of each benchmark."""
    with lzma.open(shared("text/tinystories-slice.txt.xz"), "rt", encoding="utf-8") as stories:
        (tmp_path / "stories.txt").write_text(stories.read(60_000), encoding="utf-8")
    root = tmp_path / "benchmarks"
    (root / "blimp").mkdir(parents=True)
    (root / "lambada_openai").mkdir()
    (root / "piqa").symlink_to(shared("benchmarks/piqa"))
    for file, rows in (("blimp/anaphor_gender_agreement", MINIMAL_PAIRS), ("lambada_openai/test", LAST_WORDS)):
        (root / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = {"epochs": "null", "steps": 2, "completions_per_step": 8}
    settings: dict[str, Any] = {
        "model.corpus.paths": tmp_path / "stories.txt",
        "model.corpus.vocab_size": 512,
        "model.architecture.hidden_size": 32,
        "model.architecture.intermediate_size": 64,
        "model.architecture.num_hidden_layers": 2,
        "model.pretrain.tokens": 8192,
        "model.pretrain.sequence_tokens": 64,
        "feedback.path": shared("feedback/hh-rlhf"),
        "feedback.heldout_split": "null",
        "feedback.heldout_fraction": 0.1,
        "feedback.limit": 200,
        **{f"train.{field}": value for field, value in steps.items()},
        **{f"start.train.{field}": value for field, value in steps.items()},
        "train.max_prompt_tokens": 96,
        "train.max_completion_tokens": 64,
        "evaluation.implied_reward": 10,
        "evaluation.data_root": root,
        "evaluation.benchmarks.tasks": "[blimp_anaphor_gender_agreement,lambada_openai,piqa]",
        "evaluation.benchmarks.limit": 4,
        "tracking": "none",
        "artifacts": tmp_path / "artifacts",
        "results": tmp_path / "results",
    }
    return [f"{field}={value}" for field, value in settings.items()]


def test_a_cell_runs_from_the_text_to_its_record(small: list[str]) -> None:
    chosen = ["+sweeps=ladder", "model=ladder_1m", "start=ladder_sft", "loss=kto"]
    config = resolve(compose("config", [*chosen, *small]))
    plan, record = describe(config)
    assert {"pretrain", "sft", "reference", "align", "implied_reward", "benchmark/piqa"} <= plan.stages.keys()
    assert "generate" not in plan.stages
    assert execute(config) == "done", (record.folder / "status.json").read_text()
    data, scores = (json.loads((record.folder / name).read_text()) for name in ("data.json", "scores.json"))
    assert data["pretraining"]["tokens"] == 8192
    assert data["pretraining"]["most_tokens"] > 4 * 60_000 / 4, "four passes over 60,000 characters"
    assert scores["implied_reward"]["declared"]
    assert data["parameters"]["total"] - data["parameters"]["without_embeddings"] == 512 * 32
    assert {task: score["n"] for task, score in scores["benchmarks"].items()} == {
        "blimp_anaphor_gender_agreement": 2,
        "lambada_openai": 2,
        "piqa": 4,
    }
    heldout = [row for row in read_lines(record.folder / "implied_rewards.jsonl.gz") if row["split"] == "heldout"]
    assert len(heldout) == 10
    rewards = [[row[side]["reward"] for side in ("chosen", "rejected")] for row in heldout]
    assert torch.tensor(rewards).isfinite().all()
    assert all(chosen != rejected for chosen, rejected in rewards), "each is right or wrong about the preference"
