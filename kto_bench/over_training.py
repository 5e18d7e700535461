"""Scores of a run's policy as it was at some steps of its alignment, for the record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kto_bench.evaluation.generation.guards import score_guards
from kto_bench.lines import read_lines, write_lines

OUTCOMES, ANSWERS = "over_training.jsonl", "benchmarks_over_training.jsonl"
"""Files of a record: one row per step and prompt; one row per step, task, metric and document."""
_STEP = "step-"
Parts = dict[str, list[Path]]
"""The folders of one checkpoint's stages, by the names of the stages."""


def collect_over_training(
    folders: Mapping[str, Path], metrics: Sequence[Mapping[str, Any]], record: Path
) -> list[dict[str, Any]]:
    """Write both files into the folder ``record``; returns the scores of each step in order, that of the end included.

    ``folders`` are those of the run's stages by label, where a part "step-N" or "TASK@step-N" is of the policy after
    step N. ``metrics`` are the rows of the alignment. Nothing is written where no step was asked for.
    """
    by_step: dict[int | None, Parts] = {}
    for label, folder in folders.items():
        name, _, part = label.partition("/")
        at = part.rpartition("@")[2]
        step = int(at.removeprefix(_STEP)) if at.startswith(_STEP) else None
        by_step.setdefault(step, {}).setdefault(name, []).append(folder)
    final = by_step.pop(None, {})
    if not by_step:
        return []
    seen = {0: 0, **{int(row["step"]): int(row["completions"]) for row in metrics}}
    last = max(seen)
    steps = {step: parts for step, parts in by_step.items() if step is not None} | {last: final}
    scores, outcomes, answers = [], [], []
    for step, parts in sorted(steps.items()):
        at_step = {"step": step, "completions": seen[step]}
        rows = _outcomes(parts, start=step == 0)
        outcomes += [{**at_step, **row} for row in rows]
        answers += [{**at_step, **row} for row in _rows(parts, "benchmark", "benchmarks.jsonl")]
        scores.append({**at_step, **_scores(parts, rows)})
    if outcomes:
        write_lines(record / OUTCOMES, outcomes)
    if answers:
        write_lines(record / ANSWERS, answers)
    return scores


def _outcomes(parts: Parts, *, start: bool) -> list[dict[str, Any]]:
    """Per prompt: length, divergence from the start, what the judge said."""
    divergences = {row["prompt_id"]: row["kl"] for row in _rows(parts, "kl", "kl.jsonl")}
    judgements = {row["prompt_id"]: row for row in _rows(parts, "judge", "judgements.jsonl")}
    rows = []
    for row in _rows(parts, "generate", "completions.jsonl"):
        prompt_id = row["prompt_id"]
        outcome = {"prompt_id": prompt_id, "tokens": row["tokens"], "ended": row["ended"]}
        outcome["kl"] = 0.0 if start else divergences.get(prompt_id)
        if prompt_id in judgements:
            outcome |= {key: judgements[prompt_id][key] for key in ("preference", "scores")}
        rows.append(outcome)
    return rows


def _scores(parts: Parts, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    completions = _rows(parts, "generate", "completions.jsonl")
    benchmarks: dict[str, Any] = {}
    for folder in parts.get("benchmark", []):
        benchmarks |= json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    judged, counted = parts.get("judge"), parts.get("statistics")
    return {
        "kl": sum(row["kl"] for row in outcomes) / len(outcomes) if outcomes else None,
        "head_to_head": json.loads((judged[0] / "summary.json").read_text(encoding="utf-8")) if judged else None,
        **({"statistics": json.loads((counted[0] / "statistics.json").read_text(encoding="utf-8"))} if counted else {}),
        "benchmarks": benchmarks,
        "guards": score_guards(completions) if completions else None,
    }


def _rows(parts: Parts, stage: str, name: str) -> list[dict[str, Any]]:
    return [row for folder in parts.get(stage, []) for row in read_lines(folder / name)]
