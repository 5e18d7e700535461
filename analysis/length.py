"""Figure: length of completions, and how many never ended: the first thing to check behind a win rate."""

from __future__ import annotations

from analysis import forest
from analysis.estimates import estimates, interval_note, sample_size
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep


def draw(sweep: Sweep) -> Drawing:
    """Two panels per setting: mean tokens, and the share of completions that hit the cap."""
    table = sweep.outcomes.assign(capped=lambda frame: 1.0 - frame["ended"].astype(float))
    if table.empty:
        raise NoDataError("no finished run has completions")
    tokens = estimates(table, "tokens")
    capped = estimates(table, "capped", bounded=True)
    reference = float(table["reference_tokens"].mean()) if "reference_tokens" in table else None
    panels = []
    for setting in sorted(table["setting"].unique()):
        title = f"\n{setting}" if setting else ""
        rows = tokens[tokens["setting"] == setting]
        panels.append(
            forest.Panel(f"Length{title}", rows, "tokens per completion", 1, reference, "reference's mean length", True)
        )
        panels.append(forest.Panel(f"Hit the cap{title}", capped[capped["setting"] == setting], "completions (%)", 100))
    caption = (
        "Left: mean length of the completions in tokens"
        + ("" if reference is None else " (dashed: the reference completions)")
        + ". Right: share of completions that hit the token limit before they ended. "
        + f"{interval_note(tokens)} Small dots: the seeds. {sample_size(tokens)}."
    )
    return Drawing(forest.draw(panels, columns=2), caption)


FIGURE = Entry(order=30, title="Length", make=draw)
