"""Fixtures for all tests: a checkpoint, a small run, and real public data where they lie beside the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported anywhere: the tests' processes share the cores, and nothing may ask a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
from hydra import compose, initialize_config_dir
from places import ROOT, SHARED
from small_run import MakeConfig
from tiny import tiny_model, tiny_tokenizer

from kto_bench.config import Config, resolve


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The path of a public set or tokenizer; the test is skipped where it is absent."""

    def find(path: str) -> Path:
        if not (SHARED / path).exists():
            pytest.skip(f"needs {path} in a folder shared/data beside the checkout")
        return SHARED / path

    return find


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A local checkpoint folder: tiny Llama with its tokenizer."""
    folder = tmp_path / "checkpoint"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def make(tmp_path: Path, checkpoint: Path) -> Iterator[MakeConfig]:
    """A configuration of a small run in ``tmp_path``; overrides change it."""
    rows = [
        {"prompt": f"w{i} w{i + 1}", "chosen": f"w{i + 2} w{i + 3}", "rejected": f"w{i} w{i} w{i} w{i}"}
        for i in range(40)
    ]
    feedback = tmp_path / "pairs.jsonl"
    feedback.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(*overrides: str) -> Config:
        base = [
            "model=hub",
            f"model.path={checkpoint}",
            "model.name=tiny",
            "feedback=jsonl",
            f"feedback.path={feedback}",
            "feedback.heldout_fraction=0.2",
            "start=base",
            "loss=kto",
            "train.steps=3",
            "train.completions_per_step=8",
            "train.learning_rate=1e-2",
            "evaluation.generation.max_new_tokens=8",
            "judge@evaluation.judge=callable",
            "evaluation.judge.function=small_run.shorter",
            "tracking=none",
            f"artifacts={tmp_path / 'artifacts'}",
            f"results={tmp_path / 'results'}",
        ]
        return resolve(compose("config", [*base, *overrides]))

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield config
