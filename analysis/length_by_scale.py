"""Figure: length of completions by size of model (KTO paper v1 Figure 5, which shows its Llama-7B)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from analysis import by_scale, style
from analysis.by_scale import Group
from analysis.evidence import Evidence, source_note
from analysis.registry import Drawing, NoDataError, PaperEntry

WIDEST = "the spread of means is unknown, so these bars are the widest that lengths between 0 and the token limit allow"
"""Of published means."""


def draw(evidence: Evidence) -> Drawing:
    """A column per family of models; above without SFT, below with it; on a logarithmic axis."""
    rows = by_scale.several_sizes(evidence).dropna(subset=["mean_tokens"])
    if rows.empty:
        raise NoDataError("no run has the length of its completions")
    rows = rows.assign(value=rows["mean_tokens"], low=rows["tokens_low"], high=rows["tokens_high"])
    every = [key for key, _ in by_scale.series(rows)]
    starts = sorted(rows["start"].unique(), key=style.start_order)

    def panel(axis: Axes, group: Group, row: int) -> None:
        by_scale.points(axis, group, group.rows[group.rows["start"] == starts[row]], every)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(FixedLocator([m * 10**e for e in range(5) for m in (1, 2, 5)]))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.minorticks_off()
        if axis.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axis.set_ylabel(f"tokens (mean)\nfrom {style.start_name(starts[row])}")

    with style.settings():
        figure = by_scale.grid(by_scale.groups(rows), len(starts), panel, 1.75)
        style.legend(figure, by_scale.handles(rows, starts))
    caption = f"Mean length of the completions in tokens, by size of model. {source_note(rows, WIDEST)}"
    return Drawing(figure, caption)


PAPER_FIGURE = PaperEntry(order=40, title="Length by scale", make=draw)
