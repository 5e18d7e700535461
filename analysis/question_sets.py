"""Table: published sets of questions (AlpacaEval, MT-Bench, Arena-Hard): our scores beside the leaderboard's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis import style, text
from analysis.estimates import CELL, cells, rows_of, span
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

NORMAL = 1.96


def make(sweep: Sweep) -> Sheet:
    """A row per set and cell, one per published model of the set below them; a column per statistic."""
    table = sweep.question_sets.dropna(subset=["value"])
    if table.empty:
        raise NoDataError("no finished run has statistics of a published set of questions")
    rows: list[dict[str, Any]] = []
    scales = {str(name): float(of_name["scale"].iloc[0]) for name, of_name in table.groupby("name")}
    names: list[str] = list(dict.fromkeys(table["name"]))
    for title, of_set in table.groupby("set", sort=False):
        for cell, group in cells(of_set):
            values = {name: value for name, part in group.groupby("name") for name, value in pooled(str(name), part)}
            about = {"set": title, "scale": float(group["scale"].iloc[0]), "seeds": int(group["seed"].nunique())}
            rows.append({**about, **dict(zip(CELL, cell, strict=True)), "published": "", **values})
        for model in of_set["published"].iloc[0]:
            known = {name: model.get(name) for name in names}
            about = {"set": title, "scale": float(of_set["scale"].iloc[0]), "seeds": 0}
            rows.append({**about, **dict.fromkeys(CELL, ""), "published": model["model"], **known})
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    numbers = pd.DataFrame(rows).reindex(columns=["set", *CELL, "published", "seeds", "scale", *columns])
    return Sheet(numbers, _display(numbers, {name: scales[name] for name in names}), _caption(table))


def pooled(name: str, rows: pd.DataFrame) -> list[tuple[str, float]]:
    """The mean over seeds, with an interval.

    One seed keeps its own. Of several, the error is that of the prompts (and of what was fitted to them), which seeds
    share and so do not average out, and that of the mean over seeds: a normal interval, on the safe side.
    """
    value = float(rows["value"].mean())
    if len(rows) == 1:
        low, high = float(rows["low"].iloc[0]), float(rows["high"].iloc[0])
    else:
        error = math.sqrt(float((rows["standard_error"] ** 2).mean()) + float(rows["value"].var()) / len(rows))
        low, high = value - NORMAL * error, value + NORMAL * error
    return [(name, value), (f"{name}_low", low), (f"{name}_high", high)]


def _display(numbers: pd.DataFrame, scales: dict[str, float]) -> pd.DataFrame:
    """``scales`` has what each value is shown times, by its name: sets in one table may differ in it."""
    shown = []
    for row in rows_of(numbers):
        line = {"Set": row["set"]} if numbers["set"].nunique() > 1 else {}
        line |= {"Setting": row["setting"]} if numbers["setting"].any() else {}
        ours = not row["published"]
        line["Model"] = style.loss_name(row["method"]) if ours else f"{row['published']} (published)"
        line["Start"] = style.start_name(row["start"]) if ours else ""
        line["Seeds"] = str(row["seeds"]) if ours else ""
        for name, scale in scales.items():
            digits = 1 if scale == 100 else 2
            unit = " (%)" if scale == 100 else ""
            value = text.with_interval(row, name, digits, scale)
            if not ours:
                value = text.number(np.nan if row[name] is None else row[name], digits, scale)
            line[f"{name[0].upper()}{name[1:]}{unit}"] = value
        shown.append(line)
    return pd.DataFrame(shown)


def _caption(table: pd.DataFrame) -> str:
    parts = [
        f"{' and '.join(dict.fromkeys(table['set']))}, with 95% intervals that capture the draw of prompts (resampled "
        "whole; what is fitted to them, such as the length control, is fitted anew each time)"
        + (
            " and of seeds."
            if table.groupby(CELL)["seed"].nunique().max() > 1
            else "; another seed may differ by more."
        )
    ]
    parts += [f"n = {span(table.groupby(CELL)['seed'].nunique(), 'seeds')}."]
    notes = dict.fromkeys(note for notes in table["notes"] for note in notes)
    if table["published"].map(len).any():
        parts.append("Published rows: the leaderboard's.")
    if notes:
        parts.append(f"Ours are not made as the published ones are: {'; '.join(notes)}.")
    return " ".join(parts)


TABLE = Entry(order=15, title="Published sets of questions", make=make)
