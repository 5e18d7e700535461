"""Figure: the value functions that losses imply (KTO paper v1 Figure 2, v4 Figure 1), from their code."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from analysis.evidence import Evidence
from analysis.registry import Drawing, NoDataError, PaperEntry

if TYPE_CHECKING:
    from analysis.halo.study import Study


def draw(evidence: Evidence) -> Drawing:
    """The figure of the report of the losses, of those that the published study names."""
    wanted = evidence.published.value_functions if evidence.published else []
    if not wanted:
        raise NoDataError("the report of the losses has their value functions: kto-bench-report halo")
    # brings torch, which no other figure needs
    from analysis.halo import figures

    drawing = figures.together(_measured(tuple(wanted)), named=True)
    return Drawing(drawing.figure, f"{drawing.caption} Computed, not measured: no n, no judge and no interval.")


@cache
def _measured(losses: tuple[str, ...]) -> list[Study]:
    """Of the suite's losses, once for all widths of the figure."""
    from analysis.halo.catalogue import subjects
    from analysis.halo.study import studies
    from kto_bench.__main__ import CONFIG_FOLDER

    return studies(subjects([CONFIG_FOLDER / "loss"], list(losses)), lambda message: None)


PAPER_FIGURE = PaperEntry(order=10, title="Implied value functions", make=draw)
