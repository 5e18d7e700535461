"""Which trial wins: the best one on validation prompts, and on nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.lines import read_lines
from kto_bench.record import Record


class NotYet(Exception):  # noqa: N818 - no error: trials are still to be run
    """No winner is known. The message says which trials are missing, and what to do."""


class SelectionError(ConfigError):
    """A record that selection must not read, or cannot."""


def best(trials: Sequence[Record | None], score: str) -> int:
    """The number of the trial with the highest mean ``score``; of equal ones, the first.

    A trial whose training diverged is lost, and so is None, one that was refused. Raises NotYet while others are
    missing or failed, or if all are lost; SelectionError for a record that is not of a trial on validation prompts.
    """
    missing = {
        trial: record.state() or "not begun"
        for trial, record in enumerate(trials)
        if record is not None and not (record.state() == "done" or record.diverged)
    }
    if missing:
        states = ", ".join(f"{trial} {state}" for trial, state in missing.items())
        raise NotYet(f"its winner is known once all {len(trials)} trials are done (trials {states})")
    scores = [
        validation_score(record, score) if record is not None and record.state() == "done" else -math.inf
        for record in trials
    ]
    if max(scores) == -math.inf:
        raise NotYet(f"all {len(trials)} trials diverged or were refused; give it a space with lower learning rates")
    return scores.index(max(scores))


def validation_score(record: Record, score: str) -> float:
    """The mean over the validation prompts of a trial: of the preference (ties count half), or of a judge's score."""
    config: dict[str, Any] = json.loads((record.folder / "config.json").read_text(encoding="utf-8"))
    role, split = config.get("role"), config["evaluation"].get("split")
    if (role, split) != ("trial", "validation"):
        raise SelectionError(
            f"{record.folder}: role={role} on evaluation.split={split} is not a trial on validation prompts; settings "
            "are chosen by nothing else"
        )
    rows = read_lines(record.folder / "judgements.jsonl")
    values: list[Any] = [
        row["preference"] if score == "preference" else (row["scores"] or {}).get(score) for row in rows
    ]
    if not values or any(value is None for value in values):
        known = ", ".join(["preference", *((rows[0]["scores"] or {}) if rows else {})])
        raise SelectionError(f"tune.score: the judge gave no {score!r}; choose one of {known}")
    return math.fsum(values) / len(values)
