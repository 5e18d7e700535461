"""Figure: win rate by size of model, without SFT and with it (KTO paper v1 Figures 3 and 4, v4 Figures 2 and 3)."""

from __future__ import annotations

from matplotlib.axes import Axes

from analysis import by_scale, style
from analysis.by_scale import Group
from analysis.evidence import Evidence, source_note
from analysis.registry import Drawing, PaperEntry


def draw(evidence: Evidence) -> Drawing:
    """A column per family of models; above without SFT, below with it."""
    rows = by_scale.several_sizes(evidence)
    every = [key for key, _ in by_scale.series(rows)]
    starts = sorted(rows["start"].unique(), key=style.start_order)
    found = by_scale.groups(rows)

    def panel(axis: Axes, group: Group, row: int) -> None:
        by_scale.points(axis, group, group.rows[group.rows["start"] == starts[row]], every, scale=100)
        axis.axhline(50, color="#333333", linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.8)
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel(f"win rate (%)\nfrom {style.start_name(starts[row])}")

    with style.settings():
        figure = by_scale.grid(found, len(starts), panel, 1.75)
        style.legend(figure, by_scale.handles(rows, starts))
    caption = (
        "Win rate against the completions of the data by size of model (number of parameters), from the base model and "
        f"after SFT; none is the start itself. Dashed: as good as the data's. {source_note(rows)}"
    )
    return Drawing(figure, caption)


PAPER_FIGURE = PaperEntry(order=20, title="Win rate by scale", make=draw)
