"""From prompts and the policy's completions of them to feedback. Pure and seeded."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

import numpy as np

from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.feedback.conversions import prompt_key
from kto_bench.feedback.types import Binary, Feedback, FeedbackError, FeedbackKind, Messages, Paired, Row
from kto_bench.seeds import derive

EQUAL = "both completions are the same"
_BETWEEN = "."
"""Between the number of a prompt's place and that of its completion, in an id."""


def prompts_at(places: range, rows: Iterable[Row], seed: int) -> list[Messages]:
    """The prompts at some places of an endless stream: pass after pass over the distinct prompts of ``rows``.

    Each pass is shuffled by ``seed``, as the examples of any training are. Raises FeedbackError without prompts.
    """
    distinct = list({prompt_key(row.prompt): row.prompt for row in rows}.values())
    if not distinct:
        raise FeedbackError("feedback.source: it has no prompt to ask the policy")
    found: list[Messages] = []
    for number in range(places.start // len(distinct), -(-places.stop // len(distinct))):
        order = np.random.default_rng(derive(seed, "data order", number)).permutation(len(distinct))
        start = number * len(distinct)
        found += [distinct[index] for place, index in enumerate(order, start) if place in places]
    return found


def sample_id(place: int, sample: int) -> str:
    """What the completion ``sample`` of the prompt at ``place`` is called; in the order of their names they sort."""
    return f"{place:08d}{_BETWEEN}{sample}"


def candidates_of(completions: Sequence[Mapping[str, Any]]) -> list[Candidates]:
    """Rows of completions.jsonl, those of one place together."""
    groups = groupby(completions, key=lambda row: row["prompt_id"].partition(_BETWEEN)[0])
    return [
        Candidates(place, tuple(found[0]["prompt"]), tuple(row["completion"] for row in found))
        for place, found in ((place, list(rows)) for place, rows in groups)
    ]


def annotated(
    candidates: Sequence[Candidates], annotator: Annotator, kind: FeedbackKind, rng: random.Random
) -> Feedback:
    """What ``annotator`` says of ``candidates`` in one sitting, in their order.

    Paired: the completions of a prompt are shown two by two; equal ones are left out, and nobody is asked. Binary: each
    gets a thumb. Raises FeedbackError where the annotator gives another number of answers.
    """
    if kind == "binary":
        thumbs = annotator.approve(candidates, rng)
        _check(annotator, "approve()", [len(one.completions) for one in candidates], [len(one) for one in thumbs])
        return Feedback(
            "binary",
            [
                Binary(sample_id(int(one.id), number), one.prompt, text, bool(thumb))
                for one, given in zip(candidates, thumbs, strict=True)
                for number, (text, thumb) in enumerate(zip(one.completions, given, strict=True))
            ],
        )
    pairs = [
        Candidates(sample_id(int(one.id), first), one.prompt, one.completions[first : first + 2])
        for one in candidates
        for first in range(0, len(one.completions) - 1, 2)
    ]
    shown = [pair for pair in pairs if pair.completions[0] != pair.completions[1]]
    choices = annotator.choose(shown, rng) if shown else []
    _check(annotator, "choose()", [1] * len(shown), [1] * len(choices))
    rows = []
    for pair, prefers_first in zip(shown, choices, strict=True):
        first, second = pair.completions
        chosen, rejected = (first, second) if prefers_first else (second, first)
        rows.append(Paired(pair.id, pair.prompt, chosen, rejected))
    equal = [pair for pair in pairs if pair.completions[0] == pair.completions[1]]
    if not equal:
        return Feedback("paired", rows)
    return Feedback("paired", rows, {EQUAL: len(equal)}, {EQUAL: f"row {equal[0].id}"})


def summary_of(feedback: Feedback, completions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of a sitting for the record, and ``warnings`` of what leaves a loss little to learn from."""
    n = len(completions)
    counts: dict[str, Any] = {
        "kind": feedback.kind,
        "rows": len(feedback),
        "completions": n,
        "prompts": len({prompt_key(tuple(row["prompt"])) for row in completions}),
        "dropped": feedback.dropped,
        "first_dropped": feedback.first_dropped,
        "mean_tokens": fmean(row["tokens"] for row in completions),
        "share_capped": sum(not row["ended"] for row in completions) / n,
        "share_empty": sum(not row["completion"].strip() for row in completions) / n,
        "warnings": [],
    }
    if feedback.kind == "binary":
        counts["desirable"] = sum(row.label for row in feedback.rows)
        counts["undesirable"] = len(feedback) - counts["desirable"]
        for name in ("desirable", "undesirable"):
            if not counts[name]:
                counts["warnings"].append(
                    f"the annotator found none of {n} completions {name}, so a loss learns of one class only"
                )
    elif not feedback.rows:
        counts["warnings"].append(f"in all {n // 2} pairs, {EQUAL}, so there is nothing to learn from and no update")
    if counts["share_capped"] > 0.5:
        counts["warnings"].append(
            "more than half of the completions were cut at feedback.generation.max_new_tokens, and are trained on as "
            "if they ended there; raise it"
        )
    return counts


def mean_scores(scores: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, float]:
    """The means of what an annotator perceives, by name."""
    every = [one for of in scores for one in of]
    names = dict.fromkeys(name for one in every for name in one)
    return {name: fmean(one[name] for one in every if name in one) for name in names}


def _check(annotator: Annotator, what: str, wanted: list[int], given: list[int]) -> None:
    if wanted != given:
        raise FeedbackError(
            f"feedback.annotator: {what} of {annotator.name!r} gave {sum(given)} answers to {sum(wanted)} questions; "
            "give one to each, in the shape in which they are shown"
        )
