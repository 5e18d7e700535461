"""Where the labels of a figure lie: outside of it, or upon each other."""

from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SLACK = 2.0
"""Pixels at 100 per inch: boxes of text have a margin of about that much above and below the letters."""


def labels(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    ticks = {
        text
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for text in (tick.label1, tick.label2)
    }
    drawn = {
        text
        for axes in figure.axes
        if axes.get_visible()
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis._update_ticks()
        for text in (tick.label1, tick.label2)
    }
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if text not in hidden and (text not in ticks or text in drawn)]
    return [
        (text.get_text(), text.get_window_extent(renderer))
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]


def complaints(figure: Figure) -> list[str]:
    """What is wrong with the labels of a figure, in words; empty if nothing is."""
    figure.set_dpi(100)
    found = labels(figure)
    width, height = figure.bbox.size
    outside = [
        f"{text!r} lies outside the figure: {box.extents.round()} of {width:.0f} x {height:.0f}"
        for text, box in found
        if box.x0 < -SLACK or box.y0 < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK
    ]
    crossing = [
        f"{first!r} overlaps {second!r}"
        for (first, a), (second, b) in combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > SLACK and min(a.y1, b.y1) - max(a.y0, b.y0) > SLACK
    ]
    return outside + crossing
