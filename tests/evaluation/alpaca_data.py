"""AlpacaEval's published annotations, where they lie beside the repository."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "benchmarks/alpaca_eval"
ANNOTATED = (
    ("alpaca-7b", 2),
    ("oasst-sft-pythia-12b", 2),
    ("phi-2-sft", 2),
    ("phi-2-sft", 1),
    ("phi-2-dpo", 1),
    ("tulu-2-dpo-7b", 1),
)
"""Models whose annotations by the official annotator of a version are there."""
ANNOTATORS = {1: "alpaca_eval_gpt4", 2: "weighted_alpaca_eval_gpt4_turbo"}


def annotations_path(shared: Callable[[str], Path], model: str, version: int) -> Path:
    return shared(f"{FOLDER}/{model}.{ANNOTATORS[version]}.annotations.json.gz")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(path.read_bytes()))


def as_completions(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of completions.jsonl that hold the annotated outputs."""
    return [
        {
            "prompt_id": f"alpaca_eval-{place:03d}",
            "prompt": [{"role": "user", "content": row["instruction"]}],
            "completion": row["output_2"],
            "reference": row["output_1"],
        }
        for place, row in enumerate(annotations)
    ]
