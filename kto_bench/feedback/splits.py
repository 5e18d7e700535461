"""Which prompts are trained on and which are kept for evaluation. Pure functions of rows and a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.feedback.conversions import question_key
from kto_bench.feedback.types import Feedback, FeedbackError
from kto_bench.seeds import derive

HELD_OUT = "the prompt is held out"


def split_by_prompt(feedback: Feedback, fraction: float, seed: int) -> tuple[Feedback, Feedback]:
    """(train, heldout) without a prompt in common, rows in their order; about ``fraction`` of the prompts are held out.

    Prompts that differ in case and white space only are one prompt. Its side follows from the seed and the prompt alone
    (a hash below ``fraction``), so it stays where it is when other rows come or go. Where that would leave a side
    empty, the nearest prompt is moved there. ``fraction`` 0 holds out nothing. Raises ConfigError for a fraction
    outside [0, 1), FeedbackError if there are not two prompts to part. ``dropped`` stays with train.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"feedback.heldout_fraction: {fraction} is not allowed: choose one in [0, 1)")
    if fraction == 0:
        return feedback, Feedback(feedback.kind, [])
    keys = [question_key(row.prompt) for row in feedback.rows]
    place = {key: _place(key, seed) for key in set(keys)}
    if len(place) < 2:
        raise FeedbackError(f"no prompt can be held out, all rows have the same (feedback.heldout_fraction {fraction})")
    ordered = sorted(place, key=lambda key: (place[key], key))
    count = min(max(sum(value < fraction for value in place.values()), 1), len(ordered) - 1)
    held = set(ordered[:count])

    def side(keep: Callable[[str], bool]) -> list[Any]:
        return [row for row, key in zip(feedback.rows, keys, strict=True) if keep(key)]

    train = Feedback(
        feedback.kind, side(lambda key: key not in held), dict(feedback.dropped), dict(feedback.first_dropped)
    )
    return train, Feedback(feedback.kind, side(lambda key: key in held))


def without_prompts(feedback: Feedback, heldout: Iterable[Any]) -> Feedback:
    """``feedback`` without the prompts of the rows ``heldout``; what is left out is counted in ``dropped``."""
    held = {question_key(row.prompt) for row in heldout}
    kept = [row for row in feedback.rows if not held or question_key(row.prompt) not in held]
    return feedback.without(kept, HELD_OUT)


def _place(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"{derive(seed, 'held out')}\x1f{key}".encode()).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)
