"""Table: every trial of a tuned sweep, what was tried, how it scored, and what was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics, style, text
from analysis.estimates import CELL, Cell, estimates, rows_of
from analysis.registry import Entry, Sheet
from analysis.trials import Trials, trials_of
from kto_bench.results import Sweep


def make(sweep: Sweep) -> Sheet:
    """One row per trial; those that were chosen have the test score of the runs that they led to as well."""
    tuned = trials_of(sweep)
    numbers = pd.DataFrame([row for trials in tuned for row in _rows(trials, _tests(sweep, trials.score))])
    shown = []
    for row in rows_of(numbers):
        factor = 100.0 if row["score"] == "preference" else 1.0
        digits = 1 if factor == 100 else 2
        line = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        line |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        line |= {"Trial": str(row["trial"]), "Settings": row["settings"], "State": row["state"]}
        line["Validation"] = text.with_interval(row, "validation", digits, factor)
        line["Chosen"] = "yes" if row["chosen"] else ""
        line["Test"] = text.with_interval(row, "test", digits, factor)
        shown.append(line)
    name = tuned[0].score_name
    seeds = sorted({record.labels["seed"] for trials in tuned for record in trials.records})
    caption = (
        f"Trials: {name} on validation prompts (seed {', '.join(map(str, seeds))}), with 95% intervals that capture "
        "the draw of prompts only. Trial 0 is the loss as it is without tuning. The chosen settings were run again on "
        "other seeds; their score on test prompts, none of which is a validation prompt, is under “Test”."
    )
    return Sheet(numbers, pd.DataFrame(shown), caption)


def _tests(sweep: Sweep, score: str) -> dict[Cell, dict[str, Any]]:
    table = sweep.outcomes
    if score not in table or table[score].isna().all():
        return {}
    bounded = bool(table[score].dropna().between(0, 1).all())
    rows = rows_of(estimates(table, score, bounded=bounded))
    return {(row["setting"], row["start"], row["method"]): row for row in rows}


def _rows(trials: Trials, tests: dict[Cell, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for number, record in enumerate(trials.records):
        outcomes = trials.outcomes[number]
        row = {**dict(zip(CELL, trials.cell, strict=True)), "trial": int(record.labels["trial"])}
        settings = trials.settings(number)
        row |= {"settings": " ".join(f"{key}={value:g}" for key, value in settings.items()), "state": record.state}
        row |= {"score": trials.score, "chosen": row["trial"] == trials.chosen}
        row |= {f"{split}{end}": np.nan for split in ("validation", "test") for end in ("", "_low", "_high")}
        if not np.isnan(outcomes).all():
            bounded = bool(((outcomes >= 0) & (outcomes <= 1)).all())
            found = statistics.estimate(outcomes[None], bounded=bounded)
            row |= {"validation": found.value, "validation_low": found.low, "validation_high": found.high}
        test = tests.get(trials.cell)
        if row["chosen"] and test is not None:
            row |= {"test": test["value"], "test_low": test["low"], "test_high": test["high"]}
        rows.append(row)
    return rows


TABLE = Entry(order=40, title="Tuning", make=make)
