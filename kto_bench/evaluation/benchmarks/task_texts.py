"""The texts of a suite's documents: what a model that is measured with it must not have been trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.quiet import quiet


def identity_of_texts(benchmarks: Benchmarks, data_root: Path | None) -> dict[str, Any]:
    """What decides on the texts of ``suite_texts``, by task or group: not shots, limits or templates."""
    deciding = ("include_path", "splits", "lm_eval", "data")
    parts = benchmarks.parts(data_root)
    return {entry: {key: depends[key] for key in deciding} for entry, (_, depends) in parts.items()}


def suite_texts(benchmarks: Benchmarks, data_root: Path | None) -> dict[str, list[str]]:
    """Every text of every document that is scored, by task or group of the suite; without a limit."""
    from kto_bench.evaluation.benchmarks.task_loading import load

    texts: dict[str, list[str]] = {}
    with quiet():
        manager, plans = benchmarks._plans(data_root)
        for entry, tasks in plans.items():
            loaded = load(manager, entry, tasks, data_root, benchmarks.untrained_sentences)["tasks"]
            texts[entry] = [text for task in loaded.values() for doc in task.eval_docs for text in strings_in(doc)]
    return texts


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)
