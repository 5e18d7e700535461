"""Table: what every loss was trained with, in all units of a budget, and which of them was matched."""

from __future__ import annotations

import pandas as pd

from analysis import style, text
from analysis.estimates import CELL, cells, rows_of
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

UNITS = {"updates": "Updates", "completions": "Completions", "tokens": "Tokens", "flops": "FLOPs"}


def make(sweep: Sweep) -> Sheet:
    """One row per cell: means over its runs."""
    table = sweep.budgets
    if table.empty:
        raise NoDataError("no finished run has recorded what its alignment used (runs without alignment use nothing)")
    rows = [
        {**dict(zip(CELL, cell, strict=True)), "runs": len(runs), **runs[list(UNITS)].astype(float).mean().to_dict()}
        for cell, runs in cells(table)
    ]
    numbers = pd.DataFrame(rows)
    shown = []
    for row in rows_of(numbers):
        line = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        line |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        line |= {"Runs": str(row["runs"])}
        line |= {UNITS[unit]: f"{row[unit]:.3g}" if unit == "flops" else text.number(row[unit], 0) for unit in UNITS}
        shown.append(line)
    return Sheet(numbers, pd.DataFrame(shown), matched(sweep) + " " + COUNTS)


COUNTS = (
    "Alignment only, means over runs. A pair is two completions; tokens are those of prompts and completions that the "
    "policy is trained on; FLOPs are 6 N for each of them, and 2 N for each token of a forward pass of the reference "
    "or over mismatched pairs, N the parameters without embeddings."
)


def matched(sweep: Sweep) -> str:
    """One sentence: which budget all losses had alike, and, where none was, by how much they differ."""
    table = sweep.budgets
    given = sorted(set(table["matched"]))
    if given != [""]:
        budgets = " or ".join(" ".join(reversed(budget.split(": "))) for budget in given if budget)
        who = "All runs were" if "" not in given else "Only some runs were"
        return f"{who} given a matched budget: {budgets}."
    alike = [unit for unit in UNITS if _spread(table, unit) <= ALIKE]
    if not alike:
        return "No budget was matched, and the losses differ in all units."
    return f"No budget was set for the sweep; the losses had the same {' and '.join(alike)} all the same."


ALIKE = 1.01
"""Largest ratio between cells of one setting that counts as the same amount."""


def _spread(table: pd.DataFrame, unit: str) -> float:
    ratios = []
    for _, rows in table.groupby(["setting", "start"]):
        means = rows.groupby("method")[unit].mean()
        ratios.append(float(means.max() / means.min()))
    return max(ratios)


TABLE = Entry(order=25, title="Training budget", make=make)
