"""Completions side by side: the same prompts for every loss and start, drawn at random rather than picked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import style, text
from analysis.estimates import CELL, cells, stream
from kto_bench.results import Sweep

PROMPTS = 24
MIN_PROMPTS = 4
MAX_CHARACTERS = 1200
PAGE_CHARACTERS = 900_000
"""Of all samples together, so that many cells leave the page below 5 MB: fewer prompts are shown then."""
MARKUP = 350
"""Characters around each answer."""
VERDICTS = {1.0: "win", 0.5: "tie", 0.0: "loss"}


@dataclass(frozen=True)
class Answer:
    """One run's completion: whose it is, what it says, the judge's verdict on it, and notes (utility, tokens)."""

    name: str
    loss: str
    start: str
    setting: str
    completion: str
    verdict: str
    notes: str


@dataclass(frozen=True)
class Sample:
    """A prompt, the reference completion, and the answers to it."""

    prompt: str
    reference: str
    answers: list[Answer]


def samples(sweep: Sweep) -> list[Sample]:
    """Up to PROMPTS prompts that all cells answered, each with the completions of every cell's lowest seed."""
    if sweep.completions.empty:
        return []
    outcomes = sweep.outcomes.drop(columns=["tokens", "ended"])
    table = sweep.completions.merge(outcomes, on=[*_shared(sweep.completions, outcomes)], how="left")
    chosen = [group[group["seed"] == group["seed"].min()].set_index("prompt_id") for _, group in cells(table)]
    common = sorted(set.intersection(*(set(group.index) for group in chosen)))
    picked = stream("samples").permutation(len(common))[:PROMPTS]
    found: list[Sample] = []
    for index in picked:
        sample = _sample([group.loc[common[index]] for group in chosen])
        if len(found) >= MIN_PROMPTS and sum(map(_size, found)) + _size(sample) > PAGE_CHARACTERS:
            break
        found.append(sample)
    return found


def _size(sample: Sample) -> int:
    """Characters in the page, with the markup of each answer."""
    said = sum(len(answer.completion) + MARKUP for answer in sample.answers)
    return 2 * len(sample.prompt) + len(sample.reference) + said


def _shared(left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    return [column for column in map(str, left) if column in right and column != "reference_tokens"]


def _sample(rows: list[Any]) -> Sample:
    first = rows[0]
    reference = first["reference"] if isinstance(first["reference"], str) else ""
    return Sample(_cut(first["prompt"]), _cut(reference), [_answer(row) for row in rows])


def _answer(row: Any) -> Answer:
    setting, start, method = (row[key] for key in CELL)
    loss, from_start = style.loss_name(method), style.start_name(start)
    name = f"{loss} from {from_start}" + (f" ({setting})" if setting else "")
    notes = [f"seed {row['seed']}", f"{row['tokens']} tokens"]
    if not row["ended"]:
        notes.append("hit the cap")
    if "utility" in row and not pd.isna(row["utility"]):
        notes.append(f"utility {text.number(row['utility'])}")
    verdict = VERDICTS.get(row["preference"], "not judged")
    return Answer(name, loss, from_start, setting, _cut(row["completion"]), verdict, ", ".join(notes))


def _cut(value: str) -> str:
    if len(value) <= MAX_CHARACTERS:
        return value
    return f"{value[:MAX_CHARACTERS]} … [{len(value) - MAX_CHARACTERS} more characters in completions.jsonl]"
