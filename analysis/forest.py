"""The suite's standard panel: one line per loss, one marker per start, 95% intervals, and each seed as a small dot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import style
from analysis.estimates import rows_of

ROW_HEIGHT = 0.38
"""Inches per loss."""


@dataclass(frozen=True)
class Panel:
    """A title and the rows of ``estimates.estimates`` to draw, times ``scale``; ``line`` marks a value to compare
    with."""

    title: str
    rows: pd.DataFrame
    label: str
    scale: float = 1.0
    line: float | None = None
    line_label: str = ""
    from_zero: bool = False


def draw(panels: Sequence[Panel], columns: int | None = None) -> Figure:
    """All panels, with the losses that each of them has in the same order.

    Panels that have the same losses share their labels. ``columns`` is as many as the labels leave room for.
    """
    methods = [sorted(panel.rows["method"].unique(), key=style.loss_order) for panel in panels]
    shared = all(each == methods[0] for each in methods)
    starts = sorted({start for panel in panels for start in panel.rows["start"]}, key=style.start_order)
    longest = max(len(line) for panel in panels for line in _title(panel).split("\n"))
    columns = columns or (3 if shared and longest <= 20 else 2)
    columns = min(style.fitting(columns, 1), len(panels))
    heights = [0.85 + ROW_HEIGHT * max(map(len, methods[i : i + columns])) for i in range(0, len(panels), columns)]
    with style.settings():
        figure = style.figure(height=sum(heights) + 0.25)
        axes = figure.subplots(
            len(heights), columns, squeeze=False, sharey=shared, gridspec_kw={"height_ratios": heights}
        ).ravel()
        for axis, panel, own in zip(axes, panels, methods, strict=False):
            _panel(axis, panel, own, starts)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles = style.start_handles(starts)
        handles += [h for axis in axes[:1] for h in axis.get_lines() if h.get_gid() == "reference"]
        style.legend(figure, handles)
    return figure


def _label(method: str) -> str:
    return style.folded(style.loss_name(method), style.MAX_LABELS[style.width()])


def _title(panel: Panel) -> str:
    return "\n".join(map(style.short, panel.title.split("\n")))


def _panel(axis: Axes, panel: Panel, methods: list[str], starts: list[str]) -> None:
    step = min(0.3, 0.7 / len(starts))
    for row in rows_of(panel.rows):
        offset = (starts.index(row["start"]) - (len(starts) - 1) / 2) * step
        y = methods.index(row["method"]) + offset
        colour = style.colour(row["method"])
        value, low, high = (row[key] * panel.scale for key in ("value", "low", "high"))
        axis.hlines(y, low, high, color=colour, linewidth=1.4)
        axis.plot(value, y, marker=style.marker(row["start"]), color=colour, markersize=5, markeredgecolor="white")
        if row["seeds"] > 1:
            dots = [mean * panel.scale for mean in row["by_seed"]]
            axis.plot(dots, [y + step * 0.36] * len(dots), linestyle="none", marker=".", markersize=2.8, color=colour)
    if panel.line is not None:
        axis.axvline(
            panel.line, color="#333333", linewidth=0.9, linestyle=(0, (2, 2)), label=panel.line_label, gid="reference"
        )
    for index in range(1, len(methods), 2):
        axis.axhspan(index - 0.5, index + 0.5, color="#f6f6f6", linewidth=0, zorder=0)
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.set_yticks(range(len(methods)), [_label(method) for method in methods])
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.06)
    if panel.from_zero:
        axis.set_xlim(left=0)
    axis.set_xlabel(panel.label)
    axis.set_title(_title(panel))
