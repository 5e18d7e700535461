"""A run of a tiny checkpoint on a published question set, judged through a local server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from places import ROOT

from kto_bench.config import Config, resolve

FAST = (
    "evaluation.judge.input_price=1",
    "evaluation.judge.output_price=1",
    "evaluation.judge.key_variable=null",
    "evaluation.generation.max_new_tokens=4",
    "evaluation.generation.temperature=0.7",
)


def configured(evaluation: str, folder: Path, checkpoint: Path, url: str, *overrides: str) -> Config:
    """The start of ``checkpoint``, evaluated only; feedback is a file of one row."""
    feedback = folder / "feedback.jsonl"
    row = {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4"}
    feedback.write_text("".join(json.dumps({**row, "prompt": f"w{i}"}) + "\n" for i in range(4)))
    fields = [
        f"evaluation={evaluation}",
        f"evaluation.judge.base_url={url}",
        *FAST,
        "model=hub",
        f"model.path={checkpoint}",
        "model.name=tiny",
        "feedback=jsonl",
        f"feedback.path={feedback}",
        "start=base",
        "loss=none",
        "tracking=none",
        f"artifacts={folder / 'artifacts'}",
        f"results={folder / 'results'}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return resolve(compose("config", [*fields, *overrides]))


def record_of(folder: Path) -> Path:
    """The folder of the only run."""
    (run,) = (folder / "results" / "adhoc").iterdir()
    return run


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
