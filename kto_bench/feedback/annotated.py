"""From what an annotator answers to feedback. Pure functions of candidates and answers.

A completion is called by its prompt and its place: "00012a" is the first of prompt "00012".
"""

from __future__ import annotations

from collections.abc import Sequence

from kto_bench.feedback.annotator import Candidates
from kto_bench.feedback.scores import Scored, ScoreRule, labels, preferred
from kto_bench.feedback.types import Binary, Feedback, Paired

NO_PREFERENCE = "no preference between the two"
NEAR_THRESHOLD = "the rating is too near to the threshold"


def from_choices(shown: Sequence[Candidates], first_preferred: Sequence[bool]) -> Feedback:
    """Pairs, one for each prompt."""
    rows = []
    for candidates, first in zip(shown, first_preferred, strict=True):
        one, other = candidates.completions
        chosen, rejected = (one, other) if first else (other, one)
        rows.append(Paired(candidates.id, candidates.prompt, chosen, rejected))
    return Feedback("paired", rows)


def from_thumbs(shown: Sequence[Candidates], thumbs: Sequence[Sequence[bool]]) -> Feedback:
    """Binary feedback, one row for each completion."""
    rows = [
        Binary(f"{candidates.id}{side(place)}", candidates.prompt, text, label)
        for candidates, own in zip(shown, thumbs, strict=True)
        for place, (text, label) in enumerate(zip(candidates.completions, own, strict=True))
    ]
    return Feedback("binary", rows)


def from_ratings(shown: Sequence[Candidates], ratings: Sequence[Sequence[int]], kind: str, rule: ScoreRule) -> Feedback:
    """Labels (``kind`` "binary") or pairs ("paired": the first and the second completion of each prompt) by ``rule``.

    What the rule leaves open (equal ratings, ratings near the threshold) is dropped and counted.
    """
    scored = [
        [
            Scored(f"{candidates.id}{side(place)}", candidates.id, candidates.prompt, text, rating)
            for place, (text, rating) in enumerate(zip(candidates.completions, own, strict=True))
        ]
        for candidates, own in zip(shown, ratings, strict=True)
    ]
    if kind == "binary":
        flat = [row for own in scored for row in own]
        # Rated twice, a prompt is two prompts: "prompt_mean" is that of the completions shown together.
        found = [label for own in scored for label in labels(own, rule)]
        kept = [
            Binary(row.id, row.prompt, row.completion, label)
            for row, label in zip(flat, found, strict=True)
            if label is not None
        ]
        return _counted(Feedback("binary", kept), len(flat), NEAR_THRESHOLD, [row.id for row in flat])
    pairs = []
    for first, second in scored:
        order = preferred(first, second, rule)
        if order is not None:
            better, worse = order
            pairs.append(Paired(first.place, first.prompt, better.completion, worse.completion))
    return _counted(Feedback("paired", pairs), len(scored), NO_PREFERENCE, [one.id for one in shown])


def side(place: int) -> str:
    """What the completion at ``place`` (from 0) is called: a, b, ..., z, and from the 27th on its number."""
    return chr(ord("a") + place) if place < 26 else f"-{place}"


def _counted(feedback: Feedback, offered: int, reason: str, ids: Sequence[str]) -> Feedback:
    if len(feedback) == offered:
        return feedback
    kept = {row.id for row in feedback.rows}
    first = next(one for one in ids if one not in kept)
    return Feedback(feedback.kind, feedback.rows, {reason: offered - len(feedback)}, {reason: f"row {first}"})
