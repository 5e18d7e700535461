"""Table: every run of the sweep, finished or not. Nothing that failed or was skipped is left out."""

from __future__ import annotations

import pandas as pd

from analysis import style, text
from analysis.estimates import in_order, rows_of
from analysis.registry import Entry, Sheet
from kto_bench.results import Sweep


def make(sweep: Sweep) -> Sheet:
    """One row per run, in natural order."""
    numbers = in_order(sweep.runs)
    rows = []
    for row in rows_of(numbers):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        shown |= {"Seed": str(row["seed"]) if row["seed"] >= 0 else text.MISSING, "State": row["state"]}
        shown |= {"Wall time": text.duration(row["wall_seconds"]), "Reason": row["reason"], "Run": row["run"]}
        rows.append(shown)
    counts = ", ".join(f"{count} {state}" for state, count in numbers["state"].value_counts().items())
    caption = (
        f"All {len(numbers)} runs: {counts}. Wall time is what this run spent; stages shared with earlier runs count 0."
    )
    return Sheet(numbers.drop(columns="traceback"), pd.DataFrame(rows), caption)


TABLE = Entry(order=30, title="Runs", make=make)
