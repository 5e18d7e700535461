"""From lm-eval's results to the suite's scores and rows per document."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError

PACKAGES = ("lm-eval", "transformers", "tokenizers", "datasets", "torch")


def packages() -> dict[str, str]:
    """The versions of what has a say in a score."""
    return {name: version(name) for name in PACKAGES}


def score_of(task: str, results: Mapping[str, Any], wanted: str | None) -> dict[str, Any] | None:
    """A score from lm-eval's {"acc,none": .., "acc_stderr,none": ..}; None for a group without one of its own.

    It holds {"metric", "filter", "value", "stderr", "metrics"}. ``wanted`` is the metric, or "metric,filter", that is
    *the* score; by default the first. Raises ConfigError for one that the task has not, and EvaluationError where the
    value is not a number.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for key, value in results.items():
        metric, comma, filter_ = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = results.get(f"{metric}_stderr,{filter_}")
            metrics[key] = {
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else None,
            }
    if not metrics:
        return None
    found = [key for key in metrics if wanted is None or wanted in (key, key.partition(",")[0])]
    if not found:
        raise ConfigError(f"evaluation.benchmarks.metrics.{task}: {wanted!r} is not one of {', '.join(metrics)}")
    metric, _, filter_ = found[0].partition(",")
    if math.isnan(metrics[found[0]]["value"]):
        raise EvaluationError(f"benchmark {task}: {found[0]} is not a number")
    filters = {key.partition(",")[2] for key in metrics}
    name = metric if len(filters) == 1 else found[0]
    return {"metric": name, "filter": filter_, **metrics[found[0]], "metrics": metrics}


def rows_of(task: str, samples: list[dict[str, Any]], results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{"task", "metric", "doc_id", "value"} for every metric that is the mean of a number per document.

    Others have no rows: that which lm-eval keeps per document as "perplexity", for one, is a log-likelihood.
    Raises EvaluationError for an outcome that is not a number.
    """
    several_filters = len({sample["filter"] for sample in samples}) > 1
    rows: list[dict[str, Any]] = []
    values: dict[str, list[float]] = {}
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        for metric in sample["metrics"]:
            value = sample[metric]
            if not _is_number(value):
                continue
            if math.isnan(value):
                raise EvaluationError(f"benchmark {task}: document {sample['doc_id']}: {metric} is not a number")
            name = f"{metric},{sample['filter']}" if several_filters else metric
            rows.append({"task": task, "metric": name, "doc_id": sample["doc_id"], "value": float(value)})
            values.setdefault(f"{metric},{sample['filter']}", []).append(float(value))
    no_means = {
        key if several_filters else key.partition(",")[0]
        for key, found in values.items()
        if key in results and not math.isclose(sum(found) / len(found), results[key], rel_tol=1e-6, abs_tol=1e-9)
    }
    return [row for row in rows if row["metric"] not in no_means]


def count_of(score: Mapping[str, Any], samples: list[dict[str, Any]]) -> int:
    """The documents behind a task's score: those for which it gives an outcome for its metric."""
    metric = score["metric"].partition(",")[0]
    return sum(sample["filter"] == score["filter"] and metric in sample["metrics"] for sample in samples)


def group_score(score: dict[str, Any], group_version: Any, leaves: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A group's score in the form of a task's, from those of its tasks."""
    parts = list(leaves)

    def common(field: str) -> Any:
        values = [part.get(field) for part in parts]
        return values[0] if all(value == values[0] for value in values) else None

    return {
        **score,
        "n": sum(part["n"] for part in parts),
        "version": group_version,
        **{field: common(field) for field in ("num_fewshot", "chat_template", "split", "packages", "lm_eval")},
        "first_token_ids": None,
        "truncated": sum(part["truncated"] for part in parts),
    }


def tag_score(leaves: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The score of a tag, for which lm-eval has none: the mean over its tasks, each of which counts alike.

    The KTO paper's TydiQA is such a mean over languages. None for tasks that are scored by different metrics.
    """
    if len({(leaf["metric"], leaf["filter"]) for leaf in leaves}) != 1:
        return None
    keys = [key for key in leaves[0]["metrics"] if all(key in leaf["metrics"] for leaf in leaves)]
    metrics = {key: _mean([leaf["metrics"][key] for leaf in leaves]) for key in keys}
    score = {"metric": leaves[0]["metric"], "filter": leaves[0]["filter"], **_mean(leaves), "metrics": metrics}
    return group_score(score, None, leaves)


def _mean(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of independent values; their standard errors add up in squares."""
    errors = [score["stderr"] for score in scores]
    return {
        "value": sum(score["value"] for score in scores) / len(scores),
        "stderr": None if None in errors else math.hypot(*errors) / len(scores),
    }


def filters_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a task does to an answer before it compares it, as plain values: regular expressions above all."""
    return [
        {
            "name": pipeline["name"],
            "filter": [
                {key: getattr(value, "__name__", value) for key, value in step.items()} for step in pipeline["filter"]
            ],
        }
        for pipeline in config.get("filter_list") or ()
    ]


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not hasattr(value, "__len__")
