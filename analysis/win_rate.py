"""Figure: win rate against the reference completions, by loss and start."""

from __future__ import annotations

import pandas as pd

from analysis import forest
from analysis.estimates import estimates, interval_note, sample_size
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep


def win_rates(sweep: Sweep) -> pd.DataFrame:
    """``estimates`` of the preference (ties count half). Raises NoDataError if no finished run was judged."""
    table = sweep.outcomes.dropna(subset=["preference"])
    if table.empty:
        raise NoDataError("no finished run has head-to-head judgements")
    return estimates(table, "preference", bounded=True)


def draw(sweep: Sweep) -> Drawing:
    """One panel per setting."""
    rates = win_rates(sweep)
    judges = ", ".join(sorted(sweep.guards["judge"].dropna().astype(str).unique())) or "unknown"
    panels = [
        forest.Panel(str(setting), rows, "win rate (%)", scale=100, line=50, line_label="as good as the reference")
        for setting, rows in rates.groupby("setting")
    ]
    caption = (
        f"Win rate against the reference completions (judge: {judges}; ties count half), by loss and start. "
        f"{interval_note(rates)} Small dots: the seeds. {sample_size(rates)}."
    )
    return Drawing(forest.draw(panels), caption)


FIGURE = Entry(order=10, title="Win rate", make=draw)
