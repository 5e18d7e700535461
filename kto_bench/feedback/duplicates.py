"""What feedback says twice, and where it contradicts itself. A pure function of rows."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kto_bench.feedback.conversions import prompt_key
from kto_bench.feedback.types import Feedback

SHOWN = 3
"""Of each finding, the ids of this many are kept."""


def repetitions(feedback: Feedback) -> dict[str, Any]:
    """Counts of rows that repeat or contradict others of the same prompt, with the ids of the first few.

    * ``duplicates``: rows that say what an earlier row has said (same completions, same label);
    * ``contradictions``: completions that are desirable in one row and undesirable in another, or two completions of
      which either is preferred in some row; counted once each, however many rows say so;
    * ``in_both_classes`` (pairs): completions that are chosen in one pair and rejected in another. A ranking has them
      rightly, and losses for binary feedback see them in both classes.

    The first of ``ids`` is the earlier row.
    """
    seen: dict[tuple[str, ...], str] = {}
    said: dict[tuple[str, ...], dict[bool, str]] = defaultdict(dict)
    classes: dict[tuple[str, str], dict[bool, str]] = defaultdict(dict)
    duplicates = []
    for row in feedback.rows:
        prompt = prompt_key(row.prompt)
        if feedback.kind == "paired":
            whole, statement = (prompt, row.chosen, row.rejected), (prompt, *sorted((row.chosen, row.rejected)))
            says = row.chosen <= row.rejected
            classes[prompt, row.chosen].setdefault(True, row.id)
            classes[prompt, row.rejected].setdefault(False, row.id)
        else:
            says = getattr(row, "label", True)
            whole, statement = (prompt, row.completion, str(says)), (prompt, row.completion)
        if whole in seen:
            duplicates.append([seen[whole], row.id])
        seen.setdefault(whole, row.id)
        said[statement].setdefault(says, row.id)
    found = {"duplicates": duplicates, "contradictions": _both(said)}
    if feedback.kind == "paired":
        found["in_both_classes"] = _both(classes)
    return {name: {"count": len(pairs), "ids": pairs[:SHOWN]} for name, pairs in found.items()}


def _both(said: dict[Any, dict[bool, str]]) -> list[list[str]]:
    return [list(ids.values()) for ids in said.values() if len(ids) == 2]
