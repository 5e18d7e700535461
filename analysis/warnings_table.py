"""Table: what each run was warned about, before or after its training."""

from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.estimates import in_order, rows_of
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep


def make(sweep: Sweep) -> Sheet:
    """One row per run and warning, in natural order."""
    if sweep.warnings.empty:
        raise NoDataError("no run was warned about")
    numbers = in_order(sweep.warnings)
    rows = []
    for row in rows_of(numbers):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        shown |= {"Seed": str(row["seed"]), "Warning": row["warning"], "Run": row["run"]}
        rows.append(shown)
    caption = (
        f"What the losses warned about in {numbers['run'].nunique()} of {len(sweep.runs)} runs: their data, before "
        "training, or their metrics, after it. Read the scores of these runs with that in mind."
    )
    return Sheet(numbers, pd.DataFrame(rows), caption)


TABLE = Entry(order=25, title="Warnings", make=make)
