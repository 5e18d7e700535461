"""Figure: training curves, a row per loss; each panel has its own axis, because losses' values do not compare."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep

ROW_HEIGHT = 1.25
"""Inches per setting and loss."""
ROW_CHARACTERS = 16
"""Characters of a label that fit the height of a row."""
GOOD, BAD = "#1b1b1b", "#9a9a9a"
# Title of a column, and its curves: the names a metric may have (the first one logged is drawn), and a colour (None:
# the loss's).
COLUMNS: dict[str, list[tuple[tuple[str, ...], str | None]]] = {
    "Loss": [(("training_loss",), None)],
    "Rewards": [
        (("rewards/chosen", "rewards/desirable"), GOOD),
        (("rewards/rejected", "rewards/undesirable"), BAD),
    ],
    "Reward margin": [(("rewards/margin",), None)],
    "KL estimate": [(("kl_raw",), BAD), (("kl",), None)],
    "Saturated": [(("saturated/desirable",), GOOD), (("saturated/undesirable",), BAD)],
}

MAIN = ("Loss", "Reward margin")
"""What fits a column of a paper."""


def draw(sweep: Sweep) -> Drawing:
    """Rows: settings and losses; columns: loss, rewards, margin, KL, saturated examples. Runs that did not finish are
    drawn as far as they got, and a column that no run has logged is left out."""
    table = sweep.training
    if table.empty:
        raise NoDataError("no run has training metrics (runs without alignment have none)")
    table = _with_margin(table)
    groups = sorted(
        table.groupby(["setting", "method"]), key=lambda item: (item[0][0], style.loss_order(str(item[0][1])))
    )
    starts = sorted(table["start"].unique(), key=style.start_order)
    columns = {title: curves for title, curves in COLUMNS.items() if any(_metric(table, names) for names, _ in curves)}
    if style.width() == "column":
        columns = {title: curves for title, curves in columns.items() if title in MAIN} or columns
    window = max(1, int(table.groupby("run")["step"].count().max()) // 40)
    with style.settings():
        figure = style.figure(height=ROW_HEIGHT * len(groups) + 0.75)
        axes = figure.subplots(len(groups), len(columns), squeeze=False, sharex=True)
        for line, ((setting, method), rows) in enumerate(groups):
            for axis, (title, curves) in zip(axes[line], columns.items(), strict=True):
                _panel(axis, rows, curves, style.colour(str(method)), window)
                if line == 0:
                    axis.set_title(title)
            names = [style.short(name) for name in (style.loss_name(str(method)), str(setting))]
            lines = [part for name in names for part in wrap(name, ROW_CHARACTERS)]
            axes[line][0].set_ylabel("\n".join(lines), fontweight="bold")
        for axis in axes[-1]:
            axis.set_xlabel("optimiser step")
        handles = [
            Line2D([], [], color="#333333", linestyle=style.line(s), label=f"from {style.start_name(s)}")
            for s in starts
        ]
        handles += [
            Line2D([], [], color=GOOD, label="chosen / desirable"),
            Line2D([], [], color=BAD, label="rejected / undesirable; raw KL"),
        ]
        style.legend(figure, handles)
    runs = table.groupby("run")["seed"].first()
    smoothing = f" Running means over {window} steps." if window > 1 else ""
    caption = (
        "Training, by loss (rows) and start (line style): mean over the seeds that got furthest, thin lines are the "
        f"seeds.{smoothing} Rewards are as each loss defines them and every panel has its own axis, so heights compare "
        "within a panel only. KL estimate: grey is the raw value, coloured the clamped one that enters the loss. "
        "Saturated: share of examples at which the slope of the value is below 5% of its maximum. n = "
        f"{len(runs)} runs, {runs.nunique()} seeds."
    )
    return Drawing(figure, caption)


def _panel(
    axis: Axes, rows: pd.DataFrame, curves: list[tuple[tuple[str, ...], str | None]], colour: str, window: int
) -> None:
    drawn = False
    for names, own_colour in curves:
        metric = _metric(rows, names)
        if metric is not None:
            drawn = True
            for start, values, whole in _by_start(rows, metric, window):
                shade = own_colour or colour
                axis.plot(values.index, values[whole].mean(axis=1), color=shade, linestyle=style.line(start))
                if values.shape[1] > 1:
                    axis.plot(values.index, values, color=shade, linewidth=0.5, alpha=0.35)
    axis.locator_params(nbins=4)
    if not drawn:
        axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", va="center", color="#777777")
        axis.set_yticks([])
        axis.grid(visible=False)


def _metric(rows: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The first of ``names`` that was logged."""
    return next((name for name in names if name in rows and rows[name].notna().any()), None)


def _with_margin(table: pd.DataFrame) -> pd.DataFrame:
    """Binary losses log no margin, because they see no pairs: theirs is the difference of the two mean rewards."""
    logged = table.reindex(columns=[*dict.fromkeys([*table.columns, "rewards/margin"])])
    desirable, undesirable = (table.get(f"rewards/{side}") for side in ("desirable", "undesirable"))
    if desirable is not None and undesirable is not None:
        logged["rewards/margin"] = logged["rewards/margin"].fillna(desirable - undesirable)
    return logged


def _by_start(rows: pd.DataFrame, metric: str, window: int) -> Iterator[tuple[str, pd.DataFrame, list[str]]]:
    """For each start: smoothed values of ``metric`` by step (rows) and run (columns), and the runs to take the mean
    over.

    These are the runs that got furthest: a mean over ever fewer runs would jump where one stops.
    """
    for start, part in rows.groupby("start"):
        values = part.pivot_table(index="step", columns="run", values=metric)
        smooth = values.rolling(window, min_periods=1, center=True).mean()
        last = values.apply(lambda column: column.last_valid_index())
        yield str(start), smooth.where(values.notna()), list(last.index[last == last.max()])


FIGURE = Entry(order=40, title="Training", make=draw)
