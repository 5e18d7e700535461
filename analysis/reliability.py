"""Figure: how often the implied reward is right, against how sure it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis import style
from analysis.calibration import bins_of
from analysis.estimates import CELL, cells, span
from analysis.implied_rewards import examples, kinds, matrices, probabilities
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep

SCALES = {"own": "the loss's own scale", "fitted": "fitted scale"}
HEIGHT, COLUMN_HEIGHT = 2.6, 2.0
"""Inches per row, on a page and in a column."""


def curves(sweep: Sweep) -> pd.DataFrame:
    """One row per cell, kind, scale and bin of equal mass (over all seeds): probability and rate, the means of what is
    said and of what is so, n (examples of all seeds), seeds and prompts."""
    heldout = examples(sweep).query("split == 'heldout'")
    if heldout.empty:
        raise NoDataError("no finished run has implied rewards of held-out feedback (docs/measures.md)")
    return pd.DataFrame([row for scale in SCALES for row in _curves(probabilities(heldout), scale)])


def _curves(rows: pd.DataFrame, scale: str) -> Iterator[dict[str, object]]:
    for (cell, pair), group in kinds(rows).items():
        p, y = matrices(group, f"confidence_{scale}", f"correct_{scale}")
        if not p.size:
            continue
        for part in np.array_split(np.argsort(p, axis=None, kind="stable"), bins_of(p.shape[1])):
            means = {"probability": p.ravel()[part].mean(), "rate": y.ravel()[part].mean(), "n": len(part)}
            sizes = {"seeds": p.shape[0], "prompts": p.shape[1]}
            yield {**dict(zip(CELL, cell, strict=True)), "pair": pair, "scale": scale, **means, **sizes}


def draw(sweep: Sweep) -> Drawing:
    """Rows: settings and kinds of feedback; columns: the two scales."""
    table = curves(sweep)
    panels = list(table.groupby(["setting", "pair"]))
    shown = [scale for scale in SCALES if scale in set(table["scale"])]
    confidence = style.fitting("confidence of the implied reward", "confidence")
    with style.settings():
        figure = style.figure(height=style.fitting(HEIGHT, COLUMN_HEIGHT) * len(panels) + 0.5)
        axes = figure.subplots(len(panels), len(shown), squeeze=False, sharey="row")
        for line, ((setting, pair), rows) in zip(axes, panels, strict=True):
            for axis, scale in zip(line, shown, strict=True):
                axis.plot([0.5 if pair else 0, 1], [0.5 if pair else 0, 1], color="#999999", linewidth=0.8, zorder=0)
                for (_, start, method), part in cells(rows[rows["scale"] == scale]):
                    axis.plot(
                        part["probability"], part["rate"], color=style.colour(method),
                        linestyle=style.line(start), marker=style.marker(start), markersize=3.2, linewidth=1.1,
                    )  # fmt: skip
                axis.set_title(f"{style.short(str(setting), style.fitting(30, 16))}\n{SCALES[scale]}".strip())
                axis.set_xlabel(confidence if pair else "P(desirable)")
            line[0].set_ylabel("share right" if pair else "share desirable")
        style.legend(figure, _legend(table))
    caption = (
        "Reliability of the implied reward on held-out feedback, by loss (colour) and start (marker and line). Pairs: "
        "how often the side that it prefers is the labelled one, against max(p, 1 − p), p = σ(difference of rewards). "
        "Thumbs: how many completions are desirable, against σ(reward − reference point). On the grey line "
        "probabilities mean what they say; below it they are too sure. Points: bins of equal mass over all seeds. The "
        "fitted scale has one factor per run, fitted on one half of the examples and used on the other. "
        f"n = {span(table['prompts'], 'examples')} × {span(table['seeds'], 'seeds')}, in {span(table['n'], 'rows')} "
        "per point."
    )
    return Drawing(figure, caption)


def _legend(table: pd.DataFrame) -> list[Line2D]:
    methods = sorted(table["method"].unique(), key=style.loss_order)
    starts = sorted(table["start"].unique(), key=style.start_order)
    return [Line2D([], [], color=style.colour(one), label=style.short(style.loss_name(one))) for one in methods] + [
        Line2D(
            [], [], color="#333333", linestyle=style.line(one), marker=style.marker(one), markersize=3.2,
            label=style.short(f"from {style.start_name(one)}"),
        )
        for one in starts
    ]  # fmt: skip


FIGURE = Entry(order=60, title="Reliability of the implied reward", make=draw)
