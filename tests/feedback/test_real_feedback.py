"""Whole public sets: every row through its source, and a run on each through training to a record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hydra import compose, initialize_config_dir
from places import ROOT

from kto_bench.component import build
from kto_bench.config import resolve
from kto_bench.feedback.sources.feedbackqa import FeedbackQA
from kto_bench.feedback.sources.gsm8k_solutions import GSM8KSolutions
from kto_bench.feedback.sources.hh_rlhf import HHRLHF
from kto_bench.feedback.types import FeedbackSource
from kto_bench.run import describe, execute

SETS: dict[str, tuple[type[Any], str, str, int, dict[str, int], int | None]] = {
    "hh_rlhf": (
        HHRLHF,
        "feedback/hh-rlhf",
        "paired",
        8476,
        {
            "chosen equals rejected": 36,
            "the dialogues differ before the last turn": 17,
            "empty completion": 11,
            "Human and Assistant do not alternate": 10,
            "the dialogue goes on after the last Assistant turn": 2,
        },
        None,
    ),
    "gsm8k_solutions": (GSM8KSolutions, "feedback/gsm8k-solutions", "binary", 5276, {}, 2001),
    "feedbackqa": (
        FeedbackQA,
        "feedback/feedbackqa",
        "binary",
        3419,
        {"as many ratings for the answer as against it": 504, "the question has had this answer already": 1},
        1657,
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests of this file share the pretrained model."""
    return tmp_path_factory.mktemp("real")


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_the_set(shared: Callable[[str], Path], name: str) -> None:
    source, folder, kind, rows, dropped, desirable = SETS[name]
    started = time.perf_counter()
    feedback = source(path=shared(folder)).load()
    assert time.perf_counter() - started < 10
    assert (feedback.kind, len(feedback), feedback.dropped) == (kind, rows, dropped)
    if desirable is not None:
        assert sum(row.label for row in feedback.rows) == desirable


@pytest.mark.parametrize("name", ["gsm8k_solutions", "feedbackqa"])
def test_what_datasets_makes_of_the_published_file_is_the_same(
    shared: Callable[[str], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of the hub: the builder that is asked for reads the real file, and the rows are those of the file."""
    cls, folder, _, _, _, _ = SETS[name]
    file = sorted(shared(folder).iterdir())[0]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    asked = {**cls().hub_arguments("train"), "data_files": {"train": str(file)}}
    monkeypatch.setattr(cls, "hub_arguments", lambda self, split: asked)
    from_hub, from_file = cls().load(), cls(path=file).load()
    assert len(from_hub) > 300
    assert [(row.prompt, row.completion, row.label) for row in from_hub.rows] == [
        (row.prompt, row.completion, row.label) for row in from_file.rows
    ]
    assert from_hub.dropped == from_file.dropped


@pytest.mark.parametrize(("name", "loss"), [("hh_rlhf", "simpo"), ("gsm8k_solutions", "kto"), ("feedbackqa", "kto")])
def test_a_run_on_the_whole_set(shared: Callable[[str], Path], work: Path, name: str, loss: str) -> None:
    _, folder, kind, rows, dropped, _ = SETS[name]
    config = resolve(compose("config", [f"loss={loss}", *_small(work), *_set(name, shared(folder))]))
    assert execute(config) == "done"
    record = describe(config)[1].folder
    data = json.loads((record / "data.json").read_text())
    assert data["kind"] == kind
    assert data["rows"] + data["heldout_rows"] == rows
    assert data["dropped"] == dropped
    assert data["truncated"]["completion"] > 0, "byte-level completions of real length are cut, and counted"
    assert len((record / "metrics.jsonl").read_text().splitlines()) == 3
    assert 1 <= len((record / "completions.jsonl").read_text(encoding="utf-8").split("\n")) - 1 <= 4


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_the_imbalance_study_is_one_line_and_exact(shared: Callable[[str], Path], work: Path, share: float) -> None:
    """1% and 50% of the desirable answers of FeedbackQA, counted in the rows, the artifact and the record."""
    folder = shared("feedback/feedbackqa")
    line = f"feedback.keep_desirable={share}"
    config = resolve(compose("config", ["loss=kto", *_small(work), *_set("feedbackqa", folder), line]))
    assert execute(config) == "done"
    described, record = describe(config)
    data = json.loads((record.folder / "data.json").read_text())
    before, kept = data["subsample"]["before"], data["subsample"]["kept"]
    assert before["desirable"] + before["undesirable"] == data["rows"]
    assert kept["desirable"] == round(share * before["desirable"])
    assert kept["undesirable"] == before["undesirable"]
    file = work / "artifacts/subsample" / described.fingerprints["subsample"] / "train.jsonl"
    labels = [json.loads(line)["label"] for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert (sum(labels), len(labels) - sum(labels)) == (kept["desirable"], kept["undesirable"])


def test_held_out_prompts_of_the_real_set_are_in_no_row_that_is_trained_on(shared: Callable[[str], Path]) -> None:
    from kto_bench.feedback.conversions import question_key
    from kto_bench.feedback.preparation import prepare

    target = "kto_bench.feedback.sources.hh_rlhf.HHRLHF"
    node = {"_target_": target, "path": str(shared("feedback/hh-rlhf")), "heldout_fraction": 0.1}
    prepared = prepare(build(node, FeedbackSource, "feedback"), {})
    sides = [
        {question_key(row.prompt) for row in part.rows}
        for part in (prepared.train, prepared.heldout, prepared.demonstrations)
    ]
    assert sides[0].isdisjoint(sides[1])
    assert sides[2].isdisjoint(sides[1])
    assert len(prepared.train) + len(prepared.heldout) == 8476
    assert 0.08 < len(sides[1]) / (len(sides[0]) + len(sides[1])) < 0.12


def _set(name: str, folder: Path) -> list[str]:
    fraction = ["feedback.heldout_split=null", "feedback.heldout_fraction=0.1"]
    return [f"feedback={name}", f"feedback.path={folder}", *fraction]


def _small(work: Path) -> list[str]:
    return [
        "model=sandbox_tiny",
        "model.pretrain.tokens=4096",
        "start=base",
        "train.steps=3",
        "train.completions_per_step=16",
        "train.max_prompt_tokens=24",
        "train.max_completion_tokens=24",
        "evaluation.prompts.limit=4",
        "evaluation.generation.max_new_tokens=8",
        "tracking=none",
        f"artifacts={work / 'artifacts'}",
        f"results={work / 'results'}",
    ]
