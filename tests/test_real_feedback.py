"""Runs on real public feedback, imported by the documented commands, through training to a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from places import ROOT

from kto_bench.config import resolve
from kto_bench.feedback.importers.__main__ import main as importer
from kto_bench.run import describe, execute

SETS = {
    "hh-rlhf": ("hh-rlhf", "paired", 8476),
    "gsm8k-solutions": ("gsm8k-solutions", "binary", 5276),
    "feedbackqa": ("feedbackqa", "binary", 3419),
}


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of this file share the pretrained model."""
    return tmp_path_factory.mktemp("real")


@pytest.mark.parametrize(
    ("name", "loss"), [("hh-rlhf", "dpo"), ("hh-rlhf", "kto"), ("gsm8k-solutions", "kto"), ("feedbackqa", "kto")]
)
def test_a_real_set_goes_through_to_a_record(shared: Callable[[str], Path], work: Path, name: str, loss: str) -> None:
    """The whole set is imported; a share of it, to keep the test short, is trained on by the smallest model."""
    source, kind, rows = SETS[name]
    target = work / f"{name}.jsonl"
    if not target.exists():
        importer([name, str(shared(f"feedback/{source}")), str(target)])
    assert len(target.read_text(encoding="utf-8").split("\n")) - 1 == rows
    config = resolve(
        compose(
            "config",
            [
                "model=sandbox_tiny",
                "model.pretrain.tokens=20000",
                "feedback=jsonl",
                f"feedback.path={target}",
                "feedback.limit=200",
                "start=base",
                f"loss={loss}",
                "train.steps=3",
                "train.completions_per_step=16",
                "train.max_prompt_tokens=96",
                "train.max_completion_tokens=96",
                "evaluation.prompts.limit=8",
                "evaluation.generation.max_new_tokens=16",
                "tracking=none",
                f"artifacts={work / 'artifacts'}",
                f"results={work / 'results'}",
            ],
        )
    )
    assert execute(config) == "done"
    folder = describe(config)[1].folder
    data = json.loads((folder / "data.json").read_text())
    assert data["kind"] == kind
    assert data["rows"] + data["heldout_rows"] == 200
    assert data["truncated"]["completion"] > 0, (
        "byte-level completions of real length are cut at 96 tokens, and counted"
    )
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert 1 <= len((folder / "completions.jsonl").read_text(encoding="utf-8").split("\n")) - 1 <= 8
