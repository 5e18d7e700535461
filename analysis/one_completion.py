"""Figure: KTO on one completion of every prompt (KTO paper v1 Table 1, v4 Table 3)."""

from __future__ import annotations

from analysis import dots, style
from analysis.evidence import Evidence, grouped, panel_names, source_note
from analysis.registry import Drawing, NoDataError, PaperEntry

EXPERIMENT = "one_completion_per_prompt"


def draw(evidence: Evidence) -> Drawing:
    """A panel per model."""
    rows = evidence.judged(EXPERIMENT)
    one = rows["one_completion_per_prompt"].astype(bool)
    if not one.any():
        raise NoDataError("no judged run was trained on one completion per prompt")
    compared = rows["loss"].isin({"none", "dpo", *rows.loc[one, "loss"]})
    rows = rows[(rows["keep_desirable"] == 1) & (rows["keep_undesirable"] == 1) & compared]
    rows = rows.assign(**{key: rows[key].astype(float) * 100 for key in ("value", "low", "high")})
    panels = [
        dots.Panel(str(name), part, "win rate (%)", line=50)
        for (name,), part in grouped(rows.assign(panel=panel_names(rows)), ["panel"])
    ]
    with style.settings():
        figure = dots.draw(panels)
    caption = (
        "Win rate of each method, with KTO trained on all completions and on one per prompt (less data). Dashed: as "
        f"good as the data's completions. {source_note(rows)}"
    )
    return Drawing(figure, caption)


PAPER_FIGURE = PaperEntry(order=60, title="One completion per prompt", make=draw)
