"""Several sets of feedback as one, in exact shares. Pure and seeded."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kto_bench.feedback.conversions import as_kind, poorest, prompt_key
from kto_bench.feedback.types import Feedback, FeedbackError
from kto_bench.seeds import derive


def counts_of(available: Mapping[str, int], weights: Mapping[str, float], rows: int | None) -> dict[str, int]:
    """How many rows of each part make a mixture of ``rows`` rows, in the proportions of ``weights``.

    No row is taken twice. Without ``rows``: as many as there can be. Without ``weights``: all of every part, or, with
    ``rows``, in proportion to what there is. Fractions are rounded by largest remainder, so the sum is exact. Raises
    FeedbackError, naming the part, where one holds too few.
    """
    if not weights and rows is None:
        return dict(available)
    weights = weights or available
    whole = sum(weights.values())
    share = {name: weights[name] / whole for name in available}
    largest = min(int(available[name] / share[name] + 1e-9) for name in available if share[name] > 0)
    total = largest if rows is None else rows
    exact = {name: total * share[name] for name in available}
    counts = {name: int(exact[name] + 1e-9) for name in available}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: total - sum(counts.values())]:
        counts[name] += 1
    short = [name for name in available if counts[name] > available[name]]
    if short and rows is not None:
        name = short[0]
        raise FeedbackError(
            f"feedback.rows: {rows} rows in these proportions need {counts[name]} of {name!r}, which has "
            f"{available[name]}; at most {largest} rows are possible"
        )
    return {name: min(count, available[name]) for name, count in counts.items()}


def mix(parts: Mapping[str, Feedback], weights: Mapping[str, float], rows: int | None, seed: int) -> Feedback:
    """The rows of ``parts``, one part after another, each called after its part ("PART/ID", and ``source``).

    They become the kind that all can serve. Which rows of a part are taken follows from ``seed`` and the texts; they
    stay in their order. Reasons for what was dropped name the part.
    """
    kind = poorest(part.kind for part in parts.values())
    same = {name: as_kind(part, kind) for name, part in parts.items()}
    counts = counts_of({name: len(part) for name, part in same.items()}, weights, rows)
    mixed: list[Any] = []
    for name, part in same.items():
        ordered = sorted(part.rows, key=lambda row: _place(row, seed)) if counts[name] < len(part) else part.rows
        chosen = {row.id for row in ordered[: counts[name]]}
        mixed += [replace(row, id=f"{name}/{row.id}", source=name) for row in part.rows if row.id in chosen]
    return Feedback(
        kind,
        mixed,
        {f"{name}: {reason}": count for name, part in parts.items() for reason, count in part.dropped.items()},
        {f"{name}: {reason}": place for name, part in parts.items() for reason, place in part.first_dropped.items()},
    )


def rows_by_source(feedback: Feedback) -> dict[str, int]:
    """How many rows each part of a mixture has; empty where it is none."""
    return dict(Counter(row.source for row in feedback.rows if row.source))


def _place(row: Any, seed: int) -> tuple[str, str]:
    texts = [getattr(row, side) for side in ("completion", "chosen", "rejected") if hasattr(row, side)]
    text = "\x1f".join([str(derive(seed, "mixture")), prompt_key(row.prompt), *texts])
    return hashlib.sha256(text.encode()).hexdigest(), row.id
