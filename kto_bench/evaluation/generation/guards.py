"""Score guards: what is shown beside each score, so that a degenerate policy cannot pass for a good one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kto_bench.evaluation.errors import EvaluationError


def score_guards(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Guards over the rows of completions.jsonl: over each turn of those that have several.

    ``n`` (rows); ``mean_tokens`` (tokens per completion, its end token not counted); ``share_capped`` (never ended by
    itself); ``share_empty`` (no visible character); ``repetition_4gram`` (see ``repetition``, mean over completions).
    Shares are in [0, 1]. Raises EvaluationError when there are no rows.
    """
    if not rows:
        raise EvaluationError("score guards: there are no completions")
    turns = [turn for row in rows for turn in row.get("turns", [row])]
    return {
        "n": len(rows),
        "mean_tokens": sum(turn["tokens"] for turn in turns) / len(turns),
        "share_capped": sum(not turn["ended"] for turn in turns) / len(turns),
        "share_empty": sum(not turn["completion"].strip() for turn in turns) / len(turns),
        "repetition_4gram": sum(repetition(turn["completion"]) for turn in turns) / len(turns),
    }


def repetition(text: str, order: int = 4) -> float:
    """The share of a text's n-grams of words that occurred before in it: 1 - distinct / all, 0 for fewer words."""
    words = text.split()
    grams = [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
