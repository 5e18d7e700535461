"""Figure: what KTO's class weights are worth, one against the other, as a heat map."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analysis import style
from analysis.estimates import differences, rows_of
from analysis.evidence import Evidence, grouped, source_note
from analysis.registry import Drawing, NoDataError, PaperEntry

RULE = (1.0, 1.5)
"""The KTO paper (v4 Eq. 9) advises weight x number of desirable completions to be this many times that of undesirable
ones; with classes of one size, the ratio of the weights."""


def draw(evidence: Evidence) -> Drawing:
    """A map per loss, model, start and data; a cell has the win rate, its interval and n of seeds."""
    rows = evidence.own
    rows = rows[(rows["keep_desirable"] == 1) & (rows["keep_undesirable"] == 1)]
    rows = rows.dropna(subset=["desirable_weight", "undesirable_weight"])
    maps = [(key, part) for key, part in grouped(rows, ["loss", "name", "start", "feedback"]) if _crossed(part)]
    if not maps:
        raise NoDataError("no loss was run with two values of each class weight on the same data")
    columns = min(style.fitting(2, 1), len(maps))
    lines = -(-len(maps) // columns)
    together = pd.concat([part for _, part in maps])
    low, high = 100 * together["value"].min(), 100 * together["value"].max()
    with style.settings():
        figure = style.figure(height=style.fitting(2.9, 2.6) * lines + 0.2)
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, (key, part) in zip(axes, maps, strict=False):
            image = _map(axis, part, low, high)
            axis.set_title(style.short(f"{style.loss_name(key[0])} from {style.start_name(key[2])}, {key[1]}", 34))
        for axis in axes[len(maps) :]:
            axis.set_visible(False)
        figure.colorbar(image, ax=list(axes[: len(maps)]), label="win rate (%)", shrink=0.85, aspect=25)
    caption = (
        f"Win rate (%) by the class weights of the loss, with its 95% interval in brackets. {_best(evidence, maps)} "
        f"Outlined: weights in the ratio that the KTO paper advises for classes of one size (desirable to undesirable, "
        f"{RULE[0]:g} to {RULE[1]:g}). {source_note(together)}"
    )
    return Drawing(figure, caption)


def _crossed(rows: pd.DataFrame) -> bool:
    """Whether two values of one weight were both run with two values of the other one."""
    filled = rows.pivot_table(index="desirable_weight", columns="undesirable_weight", values="value").notna()
    return any((filled.loc[a] & filled.loc[b]).sum() > 1 for a, b in combinations(filled.index, 2))


def _map(axis: Axes, rows: pd.DataFrame, low: float, high: float) -> AxesImage:
    desirable, undesirable = (sorted(rows[f"{name}_weight"].unique()) for name in ("desirable", "undesirable"))
    values = np.full((len(undesirable), len(desirable)), np.nan)
    norm = Normalize(low, high if high > low else low + 1)
    found = {
        (undesirable.index(r["undesirable_weight"]), desirable.index(r["desirable_weight"])): r for r in rows_of(rows)
    }
    for place, row in found.items():
        values[place] = 100 * row["value"]
    image = axis.imshow(values, cmap="cividis", norm=norm, origin="lower", aspect="auto")
    for (y, x), row in found.items():
        dark = norm(values[y, x]) < 0.55
        axis.text(
            x, y, f"{values[y, x]:.1f}\n[{100 * row['low']:.0f}, {100 * row['high']:.0f}]", ha="center", va="center",
            fontsize=6.2, color="white" if dark else "#1b1b1b", linespacing=1.25,
        )  # fmt: skip
        if RULE[0] <= desirable[x] / undesirable[y] <= RULE[1]:
            axis.add_patch(_outline(x, y))
    axis.grid(visible=False)
    axis.set_xticks(range(len(desirable)), [f"{value:g}" for value in desirable])
    axis.set_yticks(range(len(undesirable)), [f"{value:g}" for value in undesirable])
    axis.tick_params(length=0)
    axis.set_xlabel("desirable_weight")
    axis.set_ylabel("undesirable_weight")
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    return image


def _outline(x: int, y: int) -> Rectangle:
    return Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor="#D55E00", linewidth=1.3)


def _best(evidence: Evidence, maps: list[tuple[Any, pd.DataFrame]]) -> str:
    """Whether the best cell can be told from equal weights, by a paired difference."""
    assert evidence.sweep is not None
    sentences = []
    for _, part in maps:
        rows = rows_of(part)
        equal = [row for row in rows if row["desirable_weight"] == row["undesirable_weight"] == 1]
        if not equal:
            continue
        others = [row for row in rows if row is not equal[0]]
        gaps = differences(evidence.sweep.outcomes, "preference", [(row["cell"], equal[0]["cell"]) for row in others])
        told = int((gaps["p_holm"] < 0.05).sum())
        sentences.append(
            f"Of {len(gaps)} cells, {told or 'none'} can be told from weights 1 : 1 (paired differences, Holm, 5%)."
        )
    return " ".join(sentences)


PAPER_FIGURE = PaperEntry(order=90, title="Value of the weightings", make=draw)
