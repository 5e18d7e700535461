"""A panel per model or task with a line per method and a point per origin and start: filled for own, hollow for
published numbers, and a cross for numbers that nobody could check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.by_scale import look, origin_handles
from analysis.estimates import rows_of
from analysis.evidence import method_name, short_method_name

ROW_HEIGHT = 0.27
"""Inches per method."""
COLUMN_HEIGHT = 1.9
"""Inches of the methods of a panel where the figure is as wide as a column and has many."""
MAX_COLUMNS = 3
LINE_HEIGHT = 0.13
"""Inches of a second line of a title."""
TITLE_CHARACTERS = {1: (80, 34), 2: (34, 16), 3: (23, 16)}
"""Of a line of a title, by the number of columns, on a page and in a column."""


@dataclass(frozen=True)
class Panel:
    """``rows`` has loss, one_completion_per_prompt, start, origin, trust, value, low and high, as they are drawn."""

    title: str
    rows: pd.DataFrame
    label: str
    line: float | None = None


def methods(rows: pd.DataFrame) -> list[tuple[str, bool]]:
    """The methods of ``rows`` (loss, one completion per prompt), in the order of losses."""
    found = {(str(row["loss"]), bool(row["one_completion_per_prompt"])) for row in rows_of(rows)}
    return sorted(found, key=lambda method: (style.loss_order(method[0]), method[1]))


def draw(panels: Sequence[Panel]) -> style.Figure:
    """All panels, with the same methods in the same order."""
    everything = pd.concat([panel.rows for panel in panels])
    names = methods(everything)
    kinds = [_kinds(panel.rows) for panel in panels]
    columns = 2 if len(panels) == 4 else min(style.fitting(MAX_COLUMNS, 2), len(panels))
    lines = -(-len(panels) // columns)
    row_height = style.fitting(ROW_HEIGHT, min(ROW_HEIGHT, COLUMN_HEIGHT / len(names)))
    height = (row_height + 0.07 * (max(map(len, kinds)) - 1)) * len(names)
    limit = style.fitting(*TITLE_CHARACTERS[columns])
    titles = ["\n".join(style.folded(line, limit) for line in panel.title.split("\n")) for panel in panels]
    above = LINE_HEIGHT * max(title.count("\n") for title in titles)
    figure = style.figure(height=lines * (height + above + 0.72) + 0.45)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, panel, title, own in zip(axes, panels, titles, kinds, strict=False):
        _panel(axis, panel, names, own)
        axis.set_title(title)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    starts = sorted(everything["start"].unique(), key=style.start_order)
    handles = style.start_handles(starts) if len(starts) > 1 else []
    handles += origin_handles(everything)
    if (everything["trust"] == "unverified").any():
        handles.append(
            Line2D(
                [], [], linestyle="none", marker="x", color="#333333", markersize=4.6, label="from memory, unverified"
            )
        )
    style.legend(figure, handles)
    return figure


def _kinds(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Starts and origins, each of which has a place of its own in a line."""
    found = {(row["start"], row["origin"]) for row in rows_of(rows)}
    return sorted(found, key=lambda kind: (kind[1], style.start_order(kind[0])))


def _panel(axis: Axes, panel: Panel, names: list[tuple[str, bool]], kinds: list[tuple[str, str]]) -> None:
    step = min(0.3, 0.7 / len(kinds))
    for row in rows_of(panel.rows):
        method = (row["loss"], bool(row["one_completion_per_prompt"]))
        y = names.index(method) + (kinds.index((row["start"], row["origin"])) - (len(kinds) - 1) / 2) * step
        drawn = look(row["loss"], row["start"], row["origin"])
        if row["trust"] == "unverified":
            drawn |= {"marker": "x"}
        axis.hlines(y, row["low"], row["high"], color=style.colour(row["loss"]), linewidth=1.3)
        axis.plot(row["value"], y, **drawn)
    if panel.line is not None:
        axis.axvline(panel.line, color="#333333", linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.8)
    for index in range(1, len(names), 2):
        axis.axhspan(index - 0.5, index + 0.5, color="#f6f6f6", linewidth=0, zorder=0)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), [_label(name, roomy=len(names) < 6) for name in names])
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.08)
    axis.set_xlabel(panel.label)


def _label(name: tuple[str, bool], roomy: bool) -> str:
    """The name of a method; on two lines where there is room for them."""
    whole = method_name(*name).replace(", ", ",\n", 1)
    if roomy and max(map(len, whole.split("\n"))) <= style.MAX_LABELS[style.width()]:
        return whole
    shorter = short_method_name(*name)
    return shorter.replace(", ", ",\n", 1) if roomy else shorter
