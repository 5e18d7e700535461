"""Figures: value functions of the main losses on one axis, and value functions and slopes of all, a panel each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.halo.shape import SHAPED, VANISHING
from analysis.halo.study import Study
from analysis.halo.value import ALPHA, LOSS_AVERSION, Curve, curve, kahneman_tversky
from analysis.registry import Drawing

MAIN = ("slic", "dpo", "kto", "ppo kl_weight=0", "simpo")
"""The losses that are drawn on one axis, unless the user names some."""
COLUMNS = 4
PANEL_HEIGHT = 1.32
"""Inches per row of panels."""
LOW, HIGH = -5.0, 3.2
"""Ends of the value axis, in slopes at the reference point."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
"""Of the losses that share an axis: in grey print their colours are much alike."""
MAX_ON_ONE_AXIS = len(MARKERS)
MARKED = 0.16
PLACES = np.linspace(0, MARKED, len(MARKERS), endpoint=False)
"""Where a curve has its markers: the first, and the distance between two, as shares of the diagonal of its panel."""
HUMAN = "#555555"
DASHES = (0, (4, 1.5))
SLOPE_RANGE, ENDLESS_RANGE = 8.0, 2.0
"""Slopes are drawn for |x| up to the first, and relative to the largest one there; or up to the second, where they grow
without end."""
X_LABEL = "implied reward relative to the reference point"


def together(studies: Sequence[Study], named: bool) -> Drawing:
    """The main losses, or those that were ``named``, and the Kahneman-Tversky function; liked and disliked apart."""
    shown = [study for study in studies if named or study.subject.name in MAIN][:MAX_ON_ONE_AXIS]
    shown = shown or list(studies[:MAX_ON_ONE_AXIS])
    with style.settings():
        side_by_side = style.fitting(2, 1)
        figure = style.figure(height=3.1 if side_by_side == 2 else 5.2)
        left, right = figure.subplots(2 // side_by_side, side_by_side, sharex=True, sharey=True)
        handles = [Line2D([], [], color=HUMAN, linestyle=DASHES, label="Kahneman-Tversky")]
        for study, marker, place in zip(shown, MARKERS, PLACES, strict=False):
            look = {"color": style.colour(study.subject.name), "linestyle": style.loss_line(study.subject.name)}
            look |= {"marker": marker, "markersize": 3, "markevery": (place, MARKED)}
            handles.append(Line2D([], [], label=style.short(study.subject.title), **look))
            for axis, role in ((left, study.liked), (right, study.disliked)):
                if role is not None:
                    _line(axis, study.curves[role], study.curves[role].value / study.yardstick, **look)
        for axis, title, mirrored in ((left, "What people liked", False), (right, "What people disliked", True)):
            _human(axis, mirrored)
            _cross(axis)
            axis.set_title(title)
            axis.set_xlabel(X_LABEL)
        left.set_ylabel("value")
        style.legend(figure, handles)
    cut = "" if len(shown) == len(studies) or not named else f" Only the first {MAX_ON_ONE_AXIS} are drawn here."
    return Drawing(
        figure,
        f"Value of one completion, minus the loss, as a function of its implied reward, while all else is at the "
        f"reference point, computed by the code of each loss. {_units()} Dashed: the value that the median person puts "
        f"on gains and losses of money (Tversky & Kahneman 1992: exponent {ALPHA}, loss aversion {LOSS_AVERSION}); for "
        f"disliked completions it is mirrored, because their gain is a lower reward.{cut}",
    )


def apart(studies: Sequence[Study]) -> Drawing:
    """One panel per loss: the value of each class."""

    def draw(axis: Axes, study: Study) -> None:
        _human(axis)
        for role, colour, line in _classes(study):
            _line(axis, study.curves[role], study.curves[role].value / study.yardstick, color=colour, linestyle=line)
        _cross(axis)

    extra = [Line2D([], [], color=HUMAN, linestyle=DASHES, linewidth=0.9, label="Kahneman-Tversky")]
    held = [study.subject.title for study in studies if any(c.held_constant for c in study.curves.values())]
    note = (
        f" {', '.join(held)}: a part of the loss is held constant in training; drawn is what its slopes add up to."
        if held
        else ""
    )
    return Drawing(
        _panels(studies, draw, "value", extra),
        f"Value functions of {_count(studies)}, computed by its own code: what a completion that people liked "
        "(coloured) or disliked (black, dotted) is worth as its implied reward moves and all else stays at the "
        f"reference point. {_units()} Thin: beyond what a completion of 20 tokens with 3 nats each can reach; a curve "
        "ends where one of 20 nats each would be certain. Dashed: Tversky & Kahneman's median person. Panels marked "
        f"“nats” are of losses that log no implied reward.{note}",
    )


def slopes(studies: Sequence[Study]) -> Drawing:
    """One panel per loss: how strongly it pulls, relative to its strongest pull."""

    def draw(axis: Axes, study: Study) -> None:
        axis.axhline(VANISHING, color="#888888", linewidth=0.7, linestyle=(0, (2, 2)))
        axis.axvline(0, color="#888888", linewidth=0.7)
        within = ENDLESS_RANGE if any(shape.still_steeper for shape in study.shapes.values()) else SLOPE_RANGE
        sizes = [np.abs(each.slope[np.abs(each.x) <= within]) for each in study.curves.values()]
        top = max(float(np.nanmax(size)) for size in sizes) or 1.0
        for role, colour, line in _classes(study):
            _line(axis, study.curves[role], np.abs(study.curves[role].slope) / top, color=colour, linestyle=line)
        axis.set_xlim(-SLOPE_RANGE, SLOPE_RANGE)
        axis.set_ylim(-0.03, 1.08)
        axis.set_yticks([0, 0.5, 1])

    return Drawing(
        _panels(studies, draw, "|slope|", []),
        f"Slopes of the value functions of {_count(studies)}, in size: how strongly training pulls at a completion, as "
        f"a share of the strongest pull within ±{SLOPE_RANGE:.0f} (±{ENDLESS_RANGE:.0f} for losses whose slopes grow "
        "without end) over both classes. Coloured: what people liked; black, "
        f"dotted: what they disliked. Below the dashed line, {100 * VANISHING:.0f}%, an example is as good as ignored.",
    )


def _panels(
    studies: Sequence[Study], draw: Callable[[Axes, Study], None], label: str, extra: list[Line2D]
) -> style.Figure:
    columns = min(style.fitting(COLUMNS, 2), len(studies))
    rows = -(-len(studies) // columns)
    with style.settings():
        figure = style.figure(height=PANEL_HEIGHT * rows + 0.85)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axis, study in zip(axes.ravel(), studies, strict=False):
            draw(axis, study)
            axis.set_title(style.short(study.subject.title, 25), fontsize=7.5)
            if not study.curves[study.liked].function.logged:
                axis.text(0.98, 0.12, "nats", transform=axis.transAxes, ha="right", fontsize=7, color="#555555")
        for axis in axes.ravel()[len(studies) :]:
            axis.set_visible(False)
        for index in range(columns):  # the lowest panel of each column carries the numbers of the axis
            lowest = axes[(len(studies) - 1 - index) // columns][index]
            lowest.tick_params(labelbottom=True)
        for axis in axes[:, 0]:
            axis.set_ylabel(label)
        figure.supxlabel(X_LABEL, fontsize=style.font_size())
        handles = [
            Line2D([], [], color="#777777", label="liked (colour of the loss)"),
            Line2D([], [], color="#1b1b1b", linestyle=style.DOTTED, label="disliked"),
        ]
        style.legend(figure, [*handles, *extra])
    return figure


def _classes(study: Study) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = [(study.liked, style.colour(study.subject.name), style.SOLID)]
    return found if study.disliked is None else [*found, (study.disliked, "#1b1b1b", style.DOTTED)]


def _line(axis: Axes, drawn: Curve, values: np.ndarray, **look: Any) -> None:
    """A curve, thin where only an unlikely completion gets."""
    usual = drawn.x <= drawn.function.usual
    axis.plot(drawn.x[usual], values[usual], **look)
    if not usual.all():
        axis.plot(drawn.x[~usual], values[~usual], **{**look, "linewidth": 0.6})


def _human(axis: Axes, mirrored: bool = False) -> None:
    drawn = curve(kahneman_tversky(), SHAPED)
    axis.plot(-drawn.x if mirrored else drawn.x, drawn.value, color=HUMAN, linestyle=DASHES, linewidth=0.9)


def _cross(axis: Axes) -> None:
    axis.axhline(0, color="#888888", linewidth=0.7, zorder=0.5)
    axis.axvline(0, color="#888888", linewidth=0.7, zorder=0.5)
    axis.set_xlim(-SHAPED, SHAPED)
    axis.set_ylim(LOW, HIGH)


def _units() -> str:
    return (
        "Values are in units of the slope that the loss gives liked completions at the reference point, so that shapes "
        "can be compared; slopes themselves are in the table."
    )


def _count(studies: Sequence[Study]) -> str:
    return "one loss" if len(studies) == 1 else f"{len(studies)} losses"
