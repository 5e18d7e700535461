"""GSM8K example model solutions (Cobbe et al. 2021): each marked correct or not, as binary feedback.

SOURCE is the published example_model_solutions.jsonl, plain or gzip. Each of a question's four solutions becomes a row;
desirable means that its final answer is right. Empty solutions are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kto_bench.feedback.importers.report import Report, json_lines, require

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def convert(source: Path, report: Report) -> Iterator[dict[str, Any]]:
    """Rows with the question as prompt, and the model that wrote the solution under "model"."""
    for id_, place, value in json_lines(source):
        require(value, {"question": str, **dict.fromkeys(MODELS, dict)}, place)
        for model in MODELS:
            require(value[model], {"is_correct": bool, "solution": str}, f"{place}, {model}")
            report.read += 1
            answer = value[model]
            if not answer["solution"].strip():
                report.drop("empty completion", place)
                continue
            yield {
                "id": f"{id_}/{model}",
                "prompt": value["question"],
                "completion": answer["solution"],
                "label": answer["is_correct"],
                "model": model,
            }
