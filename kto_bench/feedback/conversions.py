"""From one kind of feedback to another, and from one set of rows to two. Pure functions of rows and a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from kto_bench.component import ConfigError
from kto_bench.feedback.types import Demonstration, Feedback, FeedbackError, FeedbackKind, Messages
from kto_bench.seeds import derive

_SERVES: dict[FeedbackKind, tuple[FeedbackKind, ...]] = {
    "paired": ("paired", "binary", "demonstrations"),
    "binary": ("binary", "demonstrations"),
    "demonstrations": ("demonstrations",),
}


def can_serve(available_kind: FeedbackKind, wanted_kind: FeedbackKind) -> bool:
    """Whether feedback of one kind serves a loss for another: pairs are also single completions with labels, and the
    good side of either is demonstrations (``batches.units_of`` picks them; the schedule shuffles them)."""
    return wanted_kind in _SERVES[available_kind]


def as_demonstrations(feedback: Feedback) -> Feedback:
    """The good side, in order: chosen completions, desirable ones, or demonstrations as they are; it may be empty."""
    if feedback.kind == "demonstrations":
        return feedback
    if feedback.kind == "paired":
        rows = [Demonstration(row.id, row.prompt, row.chosen) for row in feedback.rows]
    else:
        rows = [Demonstration(row.id, row.prompt, row.completion) for row in feedback.rows if row.label]
    return Feedback("demonstrations", rows)


def split_by_prompt(feedback: Feedback, fraction: float, seed: int) -> tuple[Feedback, Feedback]:
    """(train, heldout) without a prompt in common, rows in their order; about ``fraction`` of the prompts are held out.

    A prompt's side follows from the seed and the prompt alone (a hash below ``fraction``), so it stays where it is when
    other rows come or go. Where that would leave a side empty, the nearest prompt is moved there. ``fraction`` 0 holds
    out nothing. Raises ConfigError for a fraction outside [0, 1), FeedbackError if there are not two prompts to part.
    ``dropped`` stays with train.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"feedback.heldout_fraction: {fraction} is not allowed: choose one in [0, 1)")
    if fraction == 0:
        return feedback, Feedback(feedback.kind, [])
    place = {key: _place(key, seed) for key in {prompt_key(row.prompt) for row in feedback.rows}}
    if len(place) < 2:
        raise FeedbackError(f"no prompt can be held out, all rows have the same (feedback.heldout_fraction {fraction})")
    ordered = sorted(place, key=lambda key: (place[key], key))
    count = min(max(sum(value < fraction for value in place.values()), 1), len(ordered) - 1)
    held = set(ordered[:count])

    def side(keep: Callable[[str], bool]) -> list[object]:
        return [row for row in feedback.rows if keep(prompt_key(row.prompt))]

    train = Feedback(feedback.kind, side(lambda key: key not in held), dict(feedback.dropped))
    return train, Feedback(feedback.kind, side(lambda key: key in held))


def prompt_key(prompt: Messages) -> str:
    """A prompt as one text: equal for equal prompts only."""
    return json.dumps([[message["role"], message["content"]] for message in prompt], ensure_ascii=False)


def _place(key: str, seed: int) -> float:
    digest = hashlib.sha256(f"{derive(seed, 'held out')}\x1f{key}".encode()).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)
