"""All comparisons of a sweep, question by question, with what each could have seen; the summary and a table tell them.

A question is one outcome and one family of pairs of cells, and its p-values are adjusted by Holm's method over that
family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics, style, text
from analysis.benchmarks import answers
from analysis.estimates import CELL, Cell, cells, differences, rows_of
from analysis.registry import Entry, NoDataError, Sheet
from analysis.summary_table import score_columns
from kto_bench.results import Sweep

LOSSES, GAINS, STARTS = "Which loss wins?", "Does alignment help its start?", "Does the start matter?"
ALPHA, POWER = 0.05, 0.8
WIN_RATE = "win rate"
MOST_PLANNED = 30
"""Comparisons of a question up to which the table has what each could have seen, which takes long to compute."""


@dataclass(frozen=True)
class Outcome:
    """What is measured of every cell: its name, its unit in a sentence, what values are shown times, and the digits."""

    name: str
    table: pd.DataFrame
    column: str
    per: str = "prompt_id"
    unit: str = ""
    scale: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Question:
    """``rows`` of ``differences`` for one outcome and one family of pairs."""

    name: str
    outcome: Outcome
    rows: pd.DataFrame


def outcomes(sweep: Sweep) -> Iterator[Outcome]:
    """The win rate first; then the judge's scores, benchmarks and the length, where there are any."""
    table = sweep.outcomes
    if table["preference"].notna().any():
        yield Outcome(WIN_RATE, table.dropna(subset=["preference"]), "preference", "prompt_id", " points", 100, 1)
    for column in score_columns(sweep):
        yield Outcome(column.replace("_", " "), table, column)
    if len(sweep.benchmarks.dropna(subset=["value"])):
        for (task, metric), rows in answers(sweep).groupby(["task", "metric"]):
            share = bool(rows["value"].between(0, 1).all())
            shown = (" points", 100, 1) if share else ("", 1, 2)
            yield Outcome(f"{task} ({metric})", rows, "value", "doc_id", *shown)
    if len(table):
        yield Outcome("length", table, "tokens", "prompt_id", " tokens", 1, 1)


def pairs(table: pd.DataFrame) -> dict[str, list[tuple[Cell, Cell]]]:
    """The pairs of cells that each question compares; only cells of one setting are ever compared."""
    found = [cell for cell, _ in cells(table)]
    return {
        LOSSES: [(a, b) for a, b in combinations(found, 2) if a[:2] == b[:2] and "none" not in (a[2], b[2])],
        GAINS: [(c, (c[0], c[1], "none")) for c in found if c[2] != "none"],
        STARTS: [(b, a) for a, b in combinations(found, 2) if (a[0], a[2]) == (b[0], b[2]) and a[1] != b[1]],
    }


def questions(outcome: Outcome) -> list[Question]:
    """The questions that have something to compare."""
    asked = {
        name: differences(outcome.table, outcome.column, family, outcome.per)
        for name, family in pairs(outcome.table.dropna(subset=[outcome.column])).items()
    }
    return [Question(name, outcome, rows) for name, rows in asked.items() if len(rows)]


@lru_cache(maxsize=2)  # the summary tells them, and the table lists them
def asked(sweep: Sweep) -> tuple[Question, ...]:
    """All questions about all outcomes."""
    return tuple(question for outcome in outcomes(sweep) for question in questions(outcome))


def detectable(row: dict[str, Any], comparisons: int) -> float:
    """The smallest true difference that is found with POWER at this n; NaN where one prompt tells nothing of it."""
    study = row["outcomes"]
    return _detectable(study.tobytes(), study.shape, comparisons) if row["prompts"] >= 2 else float("nan")


@lru_cache(maxsize=4096)  # the summary and the table say it
def _detectable(study: bytes, shape: tuple[int, int], comparisons: int) -> float:
    outcomes = np.frombuffer(study).reshape(shape)
    return statistics.minimum_detectable_effect(outcomes, power=POWER, confidence=1 - ALPHA, comparisons=comparisons)


def needed(row: dict[str, Any], comparisons: int) -> tuple[int | None, int | None]:
    """How many prompts with these seeds, and how many seeds with these prompts, find a true difference of the size
    that was observed with POWER; None where no number does, or (seeds) nothing can be known from one."""
    size, study = abs(row["value"]), row["outcomes"]
    if row["prompts"] < 2 or size == 0:
        return None, None
    plan: dict[str, Any] = {"power": POWER, "confidence": 1 - ALPHA, "comparisons": comparisons}
    prompts = statistics.needed_prompts(study, size, **plan)
    seeds = statistics.needed_seeds(study, size, **plan) if row["seeds"] > 1 else None
    return prompts, seeds


def make(sweep: Sweep) -> Sheet:
    """A row per outcome, question and pair."""
    found = asked(sweep)
    if not found:
        raise NoDataError("no two finished runs can be compared")
    numbers, shown = [], []
    for question in found:
        outcome = question.outcome
        for row in rows_of(question.rows):
            planned = outcome.name == WIN_RATE and len(question.rows) <= MOST_PLANNED
            seen = detectable(row, len(question.rows)) if planned else float("nan")
            sides = {
                f"{side}_{key}": value
                for side in ("first", "second")
                for key, value in zip(CELL, row[side], strict=True)
            }
            kept = {key: row[key] for key in ("value", "low", "high", "p_value", "p_holm", "seeds", "prompts")}
            numbers.append({"outcome": outcome.name, "question": question.name, **sides, **kept, "detectable": seen})
            scaled = f"{outcome.name} ({outcome.unit.strip()})" if outcome.unit else outcome.name
            line = {"Outcome": f"{scaled[0].upper()}{scaled[1:]}", "Question": question.name}
            line |= {"First": cell_name(row["first"]), "Second": cell_name(row["second"])}
            line["First minus second"] = text.with_interval(row, "value", outcome.digits, outcome.scale, sign=True)
            line |= {"p": text.p_value(row["p_value"]), "p (Holm)": text.p_value(row["p_holm"])}
            line["Detectable"] = text.number(seen, outcome.digits, outcome.scale)
            shown.append(line | {"Seeds": str(row["seeds"]), "n": str(row["prompts"])})
    caption = (
        "All comparisons, paired by seed and by prompt (or document): differences with 95% intervals, p-values, and "
        "p-values adjusted by Holm's method over the comparisons of one question about one outcome. Detectable: the "
        f"smallest true difference in win rate that a study of this size finds with {100 * POWER:.0f}% chance after "
        "that adjustment. A difference that was not found is not shown to be absent."
    )
    return Sheet(pd.DataFrame(numbers), pd.DataFrame(shown), caption)


def cell_name(cell: Cell) -> str:
    """How a cell is called in a table."""
    start = style.start_name(cell[1])
    name = f"{start} start alone" if cell[2] == "none" else f"{style.loss_name(cell[2])} from {start}"
    return f"{cell[0]}: {name}" if cell[0] else name


def least(values: list[float], outcome: Outcome) -> str:
    """ "at least 6.1 points", or "at least 6.1 to 8.0 points" where it depends on the comparison.
    Empty where it would be 100 points of a share, or more: no difference that can be is found so often."""
    known = [value for value in values if np.isfinite(value) and value > 0]
    low, high = min(known), max(known)
    if outcome.scale == 100 and low >= 1:
        return ""
    shown = [text.number(value, outcome.digits, outcome.scale) for value in (low, high)]
    if outcome.scale == 100 and high >= 1:
        return f"at least {shown[0]}{outcome.unit}, for some comparisons more than shares can differ by"
    return (
        f"at least {shown[0]}{outcome.unit}"
        if shown[0] == shown[1]
        else f"at least {shown[0]} to {shown[1]}{outcome.unit}"
    )


TABLE = Entry(order=12, title="Comparisons", make=make)
