"""What the figures by size of model share: which models stand side by side, and how their points are drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.estimates import rows_of
from analysis.evidence import (
    OWN,
    PUBLISHED,
    Evidence,
    grouped,
    judged_or_reason,
    origin_name,
    origins,
    short_method_name,
)
from analysis.registry import NoDataError

EXPERIMENT = "scale"
SPREAD = 0.62
"""Of the distance between two models, the part that points of one model take up."""
COLUMN_ROW_HEIGHT = 1.45
"""Inches at most of a row, in a figure that is as wide as a column."""


@dataclass(frozen=True)
class Group:
    """Models that are compared by size: a family of a paper, or those of a sweep. ``rows`` has ``place``, the position
    of each model, and ``ticks`` names the positions."""

    title: str
    ticks: list[str]
    rows: pd.DataFrame


def several_sizes(evidence: Evidence) -> pd.DataFrame:
    """The judged rows of all models. Raises NoDataError unless there are models of two sizes."""
    rows = judged_or_reason(evidence, EXPERIMENT, "no judged run, and no published one by size of model")
    if rows["name"].nunique() < 2:
        raise NoDataError("all judged runs are of one model")
    return rows[(rows["keep_desirable"] == 1) & (rows["keep_undesirable"] == 1)]


def groups(rows: pd.DataFrame) -> list[Group]:
    """Own runs join a published family where their model is one of its checkpoints; all others stand by themselves."""
    published = rows[rows["origin"] == PUBLISHED]
    families = {row["model"]: (row["family"], row["parameters"]) for row in rows_of(published) if row["model"]}
    placed = []
    for row in rows_of(rows):
        family, parameters = (row["family"], row["parameters"])
        known = row["origin"] == PUBLISHED
        if row["origin"] == OWN:
            known = row["model"] in families
            family, parameters = families.get(row["model"], (row["source"], parameters))
        title = "\n".join(filter(None, [family, row["variant"]]))
        placed.append({**row, "group": title, "family": family, "parameters": parameters, "known": known})
    table = pd.DataFrame(placed)
    first = list(dict.fromkeys(published["family"]))
    families_of = dict(zip(table["group"], table["family"], strict=True))
    order = sorted(
        families_of,
        key=lambda g: (first.index(families_of[g]) if families_of[g] in first else len(first), _natural(g)),
    )
    found = []
    for title in order:
        part = table[table["group"] == title]
        models = {row["model"] or row["name"]: row for row in rows_of(part)}
        ordered = sorted(models, key=lambda m: (pd.isna(models[m]["parameters"]), models[m]["parameters"], m))
        place = [ordered.index(row["model"] or row["name"]) for row in rows_of(part)]
        ticks = [_tick(models[model]) for model in ordered]
        found.append(Group(title, ticks, part.assign(place=place)))
    return found


def _natural(words: str) -> list[tuple[float, str]]:
    """Sort key that knows numbers: "tokens=500000" comes before "tokens=4000000"."""
    return [(float(part), "") if part.isdigit() else (-1.0, part) for part in re.split(r"(\d+)", words)]


def size(parameters: float) -> str:
    """ "1.4B", "13B" or "0.15M"."""
    for unit, letter in ((1e9, "B"), (1e6, "M")):
        if parameters >= unit / 20:
            return f"{float(f'{parameters / unit:.2g}'):g}{letter}"
    return f"{float(f'{parameters / 1e3:.2g}'):g}K"


def _tick(row: dict[str, Any]) -> str:
    if row["known"]:
        return size(row["parameters"])
    name = "_\n".join(style.short(part, 10) for part in str(row["model"]).split("_", 1))
    return name if pd.isna(row["parameters"]) else f"{name}\n{size(row['parameters'])}"


def series(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, bool, str], pd.DataFrame]]:
    """Rows by (loss, one completion per prompt, origin), in the order of losses, own before published."""
    keys = ["loss", "one_completion_per_prompt", "origin"]
    yield from sorted(grouped(rows, keys), key=lambda item: (style.loss_order(item[0][0]), item[0][1], item[0][2]))


def points(
    axis: Axes, group: Group, rows: pd.DataFrame, every: list[tuple[str, bool, str]], scale: float = 1.0
) -> None:
    """The points of ``rows``, side by side within each model; ``every`` are the series of the whole figure."""
    step = SPREAD / max(len(every) - 1, 1)
    for key, part in series(rows):
        loss, one, origin = key
        ordered = part.sort_values("place")
        x = ordered["place"] + (every.index(key) - (len(every) - 1) / 2) * step
        value, low, high = (ordered[name].astype(float) * scale for name in ("value", "low", "high"))
        colour = style.colour(loss)
        axis.plot(x, value, color=colour, linewidth=0.7, alpha=0.55, linestyle=link(one, origin), zorder=1.5)
        axis.vlines(x, low, high, color=colour, linewidth=1.1, alpha=0.8)
        for start in ordered["start"].unique():
            here = (ordered["start"] == start).to_numpy()
            axis.plot(x[here], value[here], **look(loss, start, origin))
    axis.set_xticks(range(len(group.ticks)), group.ticks)
    axis.set_xlim(-0.5, len(group.ticks) - 0.5)
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="x", visible=False)
    for index in range(1, len(group.ticks), 2):
        axis.axvspan(index - 0.5, index + 0.5, color="#f6f6f6", linewidth=0, zorder=0)


def link(one_completion_per_prompt: bool, origin: str) -> Any:
    """Line style between the points of a series."""
    if one_completion_per_prompt:
        return style.DOTTED
    return style.SOLID if origin == OWN else style.DASHED


def look(loss: str, start: str, origin: str) -> dict[str, Any]:
    """Of a point: colour by loss, marker by start, hollow where it is published."""
    colour = style.colour(loss)
    face = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.1}
    if origin == OWN:
        face = {"markerfacecolor": colour, "markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"marker": style.marker(start), "markersize": 4.6, "linestyle": "none", **face}


def handles(rows: pd.DataFrame, starts: Iterable[str] = ()) -> list[Line2D]:
    """Legend: a colour per loss, a marker per start, and filled or hollow where there are both."""
    names: dict[str, str] = {}
    for (loss, one, _), _part in series(rows):
        names.setdefault(short_method_name(loss, one), loss)
    found = [Line2D([], [], color=style.colour(loss), linewidth=2.4, label=name) for name, loss in names.items()]
    found += style.start_handles(starts)
    return found + origin_handles(rows)


def origin_handles(rows: pd.DataFrame) -> list[Line2D]:
    """Filled for own and hollow for published points, with judge and n."""
    return [
        Line2D(
            [], [], linestyle="none", marker="o", markersize=4.6, color="#333333",
            label=style.short(origin_name(rows, origin), style.fitting(60, 44)),
            markerfacecolor="#333333" if origin == OWN else "white",
        )
        for origin in origins(rows)
    ]  # fmt: skip


def grid(
    found: list[Group], rows_each: int, draw: Callable[[Axes, Group, int], None], row_height: float
) -> style.Figure:
    """A column of ``rows_each`` axes per group, with as many groups beside each other as the width has room for."""
    columns = min(style.fitting(3, 1), len(found))
    row_height = style.fitting(row_height, min(row_height, COLUMN_ROW_HEIGHT))
    blocks = -(-len(found) // columns)
    widths = [1.0] * columns
    if blocks == 1:
        widths = [0.6 + sum(1.25 if "\n" in tick else 1.0 for tick in group.ticks) for group in found]
    figure = style.figure(height=row_height * rows_each * blocks + 0.75)
    axes = figure.subplots(blocks * rows_each, columns, squeeze=False, sharey=True, width_ratios=widths)
    for index, group in enumerate(found):
        block, column = divmod(index, columns)
        for row in range(rows_each):
            axis = axes[block * rows_each + row][column]
            draw(axis, group, row)
            if row == 0:
                axis.set_title("\n".join(style.short(line, 26) for line in group.title.split("\n")))
    for index in range(len(found), blocks * columns):
        for row in range(rows_each):
            axes[(blocks - 1) * rows_each + row][index % columns].set_visible(False)
    return figure
