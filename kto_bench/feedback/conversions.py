"""From one kind of feedback to another. Pure functions of rows."""

from __future__ import annotations

import json
from collections.abc import Iterable

from kto_bench.feedback.types import Binary, Demonstration, Feedback, FeedbackKind, Messages

_SERVES: dict[FeedbackKind, tuple[FeedbackKind, ...]] = {
    "paired": ("paired", "binary", "demonstrations"),
    "binary": ("binary", "demonstrations"),
    "demonstrations": ("demonstrations",),
}


def can_serve(available_kind: FeedbackKind, wanted_kind: FeedbackKind) -> bool:
    """Whether feedback of one kind serves a loss for another: pairs are also single completions with labels, and the
    good side of either is demonstrations (``batches.units_of`` picks them; the schedule shuffles them)."""
    return wanted_kind in _SERVES[available_kind]


def poorest(kinds: Iterable[FeedbackKind]) -> FeedbackKind:
    """The richest kind that every one of ``kinds`` can serve: what they have in common."""
    return min(kinds, key=lambda kind: len(_SERVES[kind]))


def as_kind(feedback: Feedback, kind: FeedbackKind) -> Feedback:
    """``feedback`` as rows of a kind that it can serve. Raises ValueError for any other."""
    if not can_serve(feedback.kind, kind):
        raise ValueError(f"{feedback.kind} feedback cannot be read as {kind}")
    if kind == feedback.kind:
        return feedback
    return as_binary(feedback) if kind == "binary" else as_demonstrations(feedback)


def as_demonstrations(feedback: Feedback) -> Feedback:
    """The good side, in order: chosen completions, desirable ones, or demonstrations as they are; it may be empty."""
    if feedback.kind == "demonstrations":
        return feedback
    if feedback.kind == "paired":
        rows = [Demonstration(row.id, row.prompt, row.chosen, row.source) for row in feedback.rows]
    else:
        rows = [Demonstration(row.id, row.prompt, row.completion, row.source) for row in feedback.rows if row.label]
    return Feedback("demonstrations", rows)


def as_binary(feedback: Feedback) -> Feedback:
    """Single completions with a label: pairs are taken apart, the chosen side being desirable.

    Rows of pairs are called "ID/chosen" and "ID/rejected"; what was dropped on the way stays known.
    """
    if feedback.kind == "binary":
        return feedback
    rows = [
        Binary(f"{row.id}/{side}", row.prompt, text, side == "chosen", row.source)
        for row in feedback.rows
        for side, text in (("chosen", row.chosen), ("rejected", row.rejected))
    ]
    return Feedback("binary", rows, dict(feedback.dropped), dict(feedback.first_dropped))


def prompt_key(prompt: Messages) -> str:
    """A prompt as one text: equal for equal prompts only."""
    return json.dumps([[message["role"], message["content"]] for message in prompt], ensure_ascii=False)


def question_key(prompt: Messages) -> str:
    """A prompt as one text that is equal for prompts that differ in case and white space only."""
    turns = [[message["role"], " ".join(message["content"].split()).casefold()] for message in prompt]
    return json.dumps(turns, ensure_ascii=False)
