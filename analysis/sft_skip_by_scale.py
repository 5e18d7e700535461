"""Figure: what skipping SFT costs, by size of model (KTO paper v1 Figure 4, v4 Figure 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis import by_scale, style
from analysis.by_scale import Group
from analysis.estimates import differences, rows_of
from analysis.evidence import OWN, PUBLISHED, Evidence, grouped, source_note
from analysis.registry import Drawing, NoDataError, PaperEntry
from analysis.statistics import two_proportions

SAME = ["origin", "model", "name", "feedback", "loss", "variant", "one_completion_per_prompt"]


def costs(evidence: Evidence, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per loss and model that has both starts: the win rate without SFT minus that with it.

    Published runs count as independent (Newcombe's interval); own ones are paired by seed and prompt.
    """
    found = []
    for _, part in grouped(rows[rows["loss"] != "none"], SAME):
        by_start = {row["start"]: row for row in rows_of(part)}
        for start in by_start.keys() - {"base"}:
            if "base" in by_start:
                without, after = by_start["base"], by_start[start]
                found.append({**without, "with": after, "start": "base"})
    for row in found:
        after = row.pop("with")
        if row["origin"] == PUBLISHED:
            gap = two_proportions(row["wins"], row["n"], after["wins"], after["n"])
            row |= {"value": gap.value, "low": gap.low, "high": gap.high}
            continue
        assert evidence.sweep is not None
        gaps = differences(evidence.sweep.outcomes, "preference", [(row["cell"], after["cell"])])
        if gaps.empty:  # no seed and prompt in common
            continue
        row |= {key: gaps[key].iloc[0] for key in ("value", "low", "high", "seeds")} | {"n": gaps["prompts"].iloc[0]}
        row |= {"interval": "paired"}
    return pd.DataFrame(found, columns=list(rows.columns))


def draw(evidence: Evidence) -> Drawing:
    """A panel per family of models; below 0 skipping SFT costs wins."""
    rows = costs(evidence, by_scale.several_sizes(evidence))
    if rows.empty:
        raise NoDataError("no loss was run from the base model and after SFT")
    every = [key for key, _ in by_scale.series(rows)]

    def panel(axis: Axes, group: Group, row: int) -> None:
        by_scale.points(axis, group, group.rows, every, scale=100)
        axis.axhline(0, color="#333333", linewidth=0.9, zorder=0.8)
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel("without SFT − with SFT\n(points of win rate)")

    with style.settings():
        figure = by_scale.grid(by_scale.groups(rows), 1, panel, 2.3)
        style.legend(figure, by_scale.handles(rows))
    kinds = []
    if (rows["origin"] == PUBLISHED).any():
        kinds.append("published differences as of independent runs (Newcombe)")
    if (rows["origin"] == OWN).any():
        kinds.append("own ones paired by seed and prompt")
    caption = (
        "Win rate of each loss on the base model minus that of the same loss after SFT, in points: below 0, skipping "
        f"SFT costs wins. Bars: 95% intervals; {' and '.join(kinds)}. {source_note(rows)}"
    )
    return Drawing(figure, caption)


PAPER_FIGURE = PaperEntry(order=30, title="What skipping SFT costs, by scale", make=draw)
