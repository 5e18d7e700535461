"""Figure and table: gold against perceived utility, the gap between them, and whose preferences are served."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import forest, style, text
from analysis.estimates import Cell, cell_order, cells, differences, estimates, interval_note, rows_of, sample_size
from analysis.registry import Drawing, Entry, NoDataError, Sheet
from kto_bench.results import Sweep

MEASURES = {
    "utility": ("Gold utility", 1, False),
    "perceived": ("Perceived utility", 1, False),
    "gap": ("Perceived less gold", 1, False),
    "convincing": ("Convincing though wrong (%)", 100, True),
    "majority_served": ("Majority served (%)", 100, True),
    "minority_served": ("Minority served (%)", 100, True),
}
"""Measure -> title, what a table multiplies by, whether it is a share."""


def measures(sweep: Sweep) -> pd.DataFrame:
    """``Sweep.outcomes`` with the columns of MEASURES that the judge's scores allow, one row per run and prompt.

    ``gap`` is the perceived less the gold utility of the completion. ``convincing`` is 1 where a completion that is
    not correct is perceived as better than the reference completion, 0 where it is not; NaN for correct ones.
    ``majority_served`` and ``minority_served`` are 1, 1/2 or 0 where that crowd perceives the completion as better
    than, as good as or worse than the reference completion.

    Raises NoDataError where no finished run has both utilities.
    """
    table = sweep.outcomes
    if not {"utility", "perceived"} <= set(table) or table[["utility", "perceived"]].isna().all(axis=None):
        raise NoDataError("no finished run has a judge that knows the gold and the perceived utility")
    table = table.assign(gap=table["perceived"] - table["utility"])
    if {"correct", "reference_perceived"} <= set(table):
        fooled = (table["perceived"] > table["reference_perceived"]).astype(float)
        table["convincing"] = fooled.where(table["correct"].eq(0) & table["reference_perceived"].notna())
    for crowd in ("majority", "minority"):
        if {crowd, f"reference_{crowd}"} <= set(table):
            ahead = np.sign((table[crowd] - table[f"reference_{crowd}"]).astype(float))
            table[f"{crowd}_served"] = (ahead + 1) / 2
    return table


def _estimates(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    shown = [name for name in MEASURES if name in table and table[name].notna().any()]
    return {name: estimates(table, name, bounded=MEASURES[name][2]) for name in shown}


def draw(sweep: Sweep) -> Drawing:
    """A panel per measure and setting."""
    found = _estimates(measures(sweep))
    panels = []
    for name, rows in found.items():
        title, scale, _ = MEASURES[name]
        for setting, part in rows.groupby("setting"):
            heading = "\n".join([title.removesuffix(" (%)"), str(setting)]).strip()
            line = {"gap": 0.0, "majority_served": 50.0, "minority_served": 50.0}.get(name)
            label = "share (%)" if scale == 100 else "utility"
            panels.append(forest.Panel(heading, part, label, float(scale), line=line))
    first = found["utility"]
    caption = (
        "What completions are worth, what they seem worth to those who labelled the feedback (without their noise), "
        "and the difference. Convincing though wrong: of the completions that are not correct, the share that seems "
        "better than the reference completion. Served: how often a crowd perceives the completion as better than the "
        f"reference completion, ties a half; dashed: as often as not. {interval_note(first)} {sample_size(first)}."
    )
    return Drawing(forest.draw(panels), caption)


def against_start(table: pd.DataFrame) -> pd.DataFrame:
    """``differences`` of every trained cell from loss none of its start, for each of MEASURES, with ``measure``."""
    keys = [key for key, _ in cells(table)]
    pairs: list[tuple[Cell, Cell]] = [
        (cell, other) for cell in keys for other in keys if other == (cell[0], cell[1], "none") and other != cell
    ]
    shown = [name for name in MEASURES if name in table and table[name].notna().any()]
    parts = [differences(table, name, pairs).assign(measure=name) for name in shown]
    return pd.concat(parts, ignore_index=True)


def make(sweep: Sweep) -> Sheet:
    """One row per cell: the paired difference of each measure from the start's."""
    table = against_start(measures(sweep))
    if table.empty:
        raise NoDataError("no finished run of loss=none has a start to compare perceived utility with")
    rows, numbers = [], []
    for cell in sorted(set(table["first"]), key=cell_order):
        setting, start, method = cell
        shown: dict[str, Any] = {"Setting": setting} if any(first[0] for first in table["first"]) else {}
        shown |= {"Start": style.start_name(start), "Loss": style.loss_name(method)}
        number: dict[str, Any] = {"setting": setting, "start": start, "method": method}
        found = {row["measure"]: row for row in rows_of(table[[first == cell for first in table["first"]]])}
        for name in dict.fromkeys(table["measure"]):
            title, scale, _ = MEASURES[name]
            digits = 1 if scale == 100 else 2
            if name in found:
                row = found[name]
                mark = "*" if row["p_holm"] < 0.05 else ""
                shown[title] = text.with_interval(row, "value", digits, scale, sign=True) + mark
                number |= {f"{name}_{key}": row[key] for key in ("value", "low", "high", "p_holm", "prompts")}
            else:
                shown[title] = text.MISSING
        rows.append(shown)
        numbers.append(number)
    caption = (
        "Differences from the start (loss none), paired by seed and prompt, with 95% intervals that capture prompts "
        "and, of several seeds, seeds. *: p < 0.05 after Holm's correction over the rows of a column. Shares in "
        f"points. {sample_size(table[table['measure'] == 'utility'])}."
    )
    return Sheet(pd.DataFrame(numbers), pd.DataFrame(rows).fillna(text.MISSING), caption)


FIGURE = Entry(order=62, title="Gold and perceived utility", make=draw)
TABLE = Entry(order=66, title="Gold and perceived utility, against the start", make=make)
