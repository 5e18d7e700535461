"""Wrong labels on purpose: an exact share of them, drawn at random. Pure and seeded."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from kto_bench.feedback.conversions import prompt_key
from kto_bench.feedback.types import Feedback
from kto_bench.seeds import derive


def with_noise(feedback: Feedback, share: float, seed: int) -> tuple[Feedback, dict[str, Any]]:
    """``feedback`` with round(``share`` x rows) labels turned round, and what was: counts and the ids of the rows.

    Of pairs, the sides are swapped. Which rows they are follows from ``seed`` and the texts alone, and the rows of a
    share are among those of a larger one. Demonstrations have no label, and come back as they are.
    """
    if feedback.kind == "demonstrations":
        return feedback, {"share": share, "rows": 0, "ids": []}
    ordered = sorted(feedback.rows, key=lambda row: _place(row, seed))
    turned = {row.id for row in ordered[: round(share * len(ordered))]}
    rows = [_turned(row) if row.id in turned else row for row in feedback.rows]
    counts: dict[str, Any] = {"share": share, "rows": len(turned)}
    if feedback.kind == "binary":
        was_desirable = sum(row.label for row in feedback.rows if row.id in turned)
        counts |= {"desirable_to_undesirable": was_desirable, "undesirable_to_desirable": len(turned) - was_desirable}
    counts["ids"] = [row.id for row in feedback.rows if row.id in turned]
    return Feedback(feedback.kind, rows, dict(feedback.dropped), dict(feedback.first_dropped)), counts


def _turned(row: Any) -> Any:
    if hasattr(row, "label"):
        return replace(row, label=not row.label)
    return replace(row, chosen=row.rejected, rejected=row.chosen)


def _place(row: Any, seed: int) -> tuple[str, str]:
    texts = [row.completion] if hasattr(row, "label") else [row.chosen, row.rejected]
    text = "\x1f".join([str(derive(seed, "label noise")), prompt_key(row.prompt), *texts])
    return hashlib.sha256(text.encode()).hexdigest(), row.id
