"""Figure: gold and perceived utility of intermediate policies against the KL from their start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.estimates import cells, interval_note, sample_size
from analysis.over_training import points, span_of
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep

SCORES: dict[str, tuple[str, Any, str]] = {
    "utility": ("gold", "-", "o"),
    "perceived": ("perceived", (0, (3, 1.5)), "^"),
}
HEIGHT = 2.4
"""Inches per row of panels."""


def curves(sweep: Sweep) -> dict[str, pd.DataFrame]:
    """``over_training.points`` of each of SCORES that was measured; NoDataError where KL or gold utility was not."""
    table = sweep.over_training
    if "utility" not in table or table.dropna(subset=["utility", "kl"]).empty:
        raise NoDataError("no finished run has gold utility and KL over its training (evaluation.at_steps)")
    found = {}
    for name in SCORES:
        if name in table and table[name].notna().any():
            rows = table.dropna(subset=[name, "kl"]).astype({name: float})
            found[name] = points(sweep, rows, name, "prompt_id", bounded=False)
    return found


def draw(sweep: Sweep) -> Drawing:
    """A panel for each setting, start and loss; gold and perceived utility in the same colour, all on one scale."""
    tables = curves(sweep)
    keys = [key for key, _ in cells(tables["utility"])]
    settings = len({(setting, start) for setting, start, _ in keys}) > 1
    columns = min(style.fitting(3, 2), len({method for _, _, method in keys}))
    lines = -(-len(keys) // columns)
    furthest = 1.05 * max(float(table["kl"].max()) for table in tables.values()) or 1.0
    with style.settings():
        figure = style.figure(height=style.fitting(HEIGHT, 1.9) * lines + 0.4)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axis, key in zip(axes.ravel(), keys, strict=False):
            setting, start, method = key
            for name, table in tables.items():
                _curve(axis, dict(cells(table)).get(key), name, style.colour(method))
            heading = [style.short(style.loss_name(method))]
            heading += [style.short(f"{setting} from {style.start_name(start)}".strip())] if settings else []
            axis.set_title("\n".join(heading))
            axis.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
            axis.set_xlim(0, furthest)
            axis.set_xticks(
                [tick for tick in MaxNLocator(style.fitting(5, 3)).tick_values(0, furthest) if tick <= furthest]
            )
            axis.tick_params(labelbottom=True)
        for axis in axes.ravel()[len(keys) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("utility")
        figure.supxlabel("KL from the start (nats; square-root axis)", fontsize=style.font_size())
        handles = [
            Line2D([], [], color="#333333", linestyle=SCORES[name][1], marker=SCORES[name][2], markersize=3.2,
                   label=f"{SCORES[name][0]} utility")
            for name in tables
        ]  # fmt: skip
        style.legend(figure, handles)
    first = tables["utility"]
    caption = (
        "Over-optimisation: utility of the policy at steps of its alignment against how far it has moved from its "
        "start, on the square-root axis of Gao, Schulman and Hilton (2023). Where perceived utility goes on rising and "
        "gold utility falls, the policy pleases and does not help. KL: summed over the tokens of the policy's own "
        f"completions, mean over prompts and seeds. {interval_note(first)} {sample_size(first)}, {span_of(first)}."
    )
    return Drawing(figure, caption)


def _curve(axis: Axes, rows: pd.DataFrame | None, name: str, colour: str) -> None:
    if rows is None:
        return
    line = rows.sort_values("step")
    _, dashes, marker = SCORES[name]
    axis.errorbar(
        line["kl"], line["value"], yerr=[line["value"] - line["low"], line["high"] - line["value"]], color=colour,
        linestyle=dashes, marker=marker, markersize=3.2, linewidth=1.2, elinewidth=0.7, capsize=1.5,
    )  # fmt: skip


FIGURE = Entry(order=64, title="Over-optimisation", make=draw)
