"""A figure of what arms do as a factor changes: one line per loss, an interval at every point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.laboratory.arms import Arm, Arms, Measure

HEIGHT, COLUMN_HEIGHT = 2.5, 2.1
"""Inches per row, on a page and in a column."""
OFFSET, SPREAD = 0.07, 0.25
"""Of the distance between two points, of neighbouring lines and of all: intervals do not cover each other."""


@dataclass(frozen=True)
class Line:
    """One line: the arm that is fixed, its name, colour and marker."""

    arm: Arm
    name: str
    colour: str
    marker: str = "o"
    dashes: Any = "-"

    @classmethod
    def of_loss(cls, loss: str, start: str | None = None, **arm: Any) -> Line:
        """A loss, in the look it has everywhere; with a ``start``, in the look of that start."""
        named = {"loss": loss, **({} if start is None else {"start": start}), **arm}
        name = style.loss_name(loss) + ("" if start is None else f", from {style.start_name(start)}")
        look = (style.marker(start), style.line(start)) if start else ("o", style.loss_line(loss))
        return cls(named, name, style.colour(loss), *look)


@dataclass(frozen=True)
class Panel:
    """A measure of all lines over the values of a factor; ``arm`` narrows all lines."""

    arms: Arms
    measure: Measure
    factor: str
    values: Sequence[Any]
    title: str = ""
    label: str = ""
    names: Sequence[str] = ()
    """What the values are called on the axis, in place of themselves."""
    arm: Arm = field(default_factory=dict)
    lines: Sequence[Line] | None = None
    """Where not all lines of the figure are in it."""
    joined: bool = True
    """Whether there is an order between the values, so that points may be joined."""


def draw(panels: Sequence[Panel], lines: Sequence[Line], columns: int = 3) -> Figure:
    """Panels side by side, ``columns`` of them on a page, equally spaced values on the axis, and one legend."""
    columns = min(style.fitting(columns, 1), len(panels))
    rows = -(-len(panels) // columns)
    with style.settings():
        figure = style.figure(height=style.fitting(HEIGHT, COLUMN_HEIGHT) * rows + 0.45)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _panel(axis, panel, lines if panel.lines is None else panel.lines)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles = [
            Line2D(
                [],
                [],
                color=one.colour,
                marker=one.marker,
                linestyle=one.dashes,
                markersize=4,
                label=style.short(one.name),
            )
            for one in lines
        ]
        style.legend(figure, handles)
    return figure


def _panel(axis: Axes, panel: Panel, lines: Sequence[Line]) -> None:
    step = min(OFFSET, SPREAD / len(lines))
    for number, line in enumerate(lines):
        offset = (number - (len(lines) - 1) / 2) * step
        points = [
            panel.arms.estimate(panel.measure, {**panel.arm, **line.arm, panel.factor: value}) for value in panel.values
        ]
        scale = panel.measure.scale
        middle = [scale * point.value for point in points]
        errors = [
            [scale * max(point.value - point.low, 0.0) for point in points],  # of a share of 0 or 1 they may be -1e-17
            [scale * max(point.high - point.value, 0.0) for point in points],
        ]
        axis.errorbar(
            [place + offset for place in range(len(points))], middle, yerr=errors, color=line.colour,
            marker=line.marker, linestyle=line.dashes if panel.joined else "none", markersize=4, elinewidth=0.9,
            capsize=1.8,
        )  # fmt: skip
    names = panel.names or [f"{value:g}" if isinstance(value, float) else str(value) for value in panel.values]
    axis.set_xticks(range(len(panel.values)), names)
    axis.margins(x=0.12)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel(panel.label or panel.factor.replace("_", " "))
    axis.set_ylabel(panel.measure.noun + (f" ({panel.measure.unit.strip()})" if panel.measure.unit else ""))
    axis.set_title(panel.title)


def caption(what: str, arms: Arms) -> str:
    """What is drawn, what the bars are, and n."""
    return (
        f"{what} Bars: 95% intervals that capture the draw of prompts and of training seeds. {arms.sample}. Every seed "
        "has a base model of its own."
    )
