"""Figure and table: benchmarks after alignment on UltraFeedback, with KTO's ablations (KTO paper v1 Table 3)."""

from __future__ import annotations

import pandas as pd

from analysis import dots, paper_scores, style
from analysis.evidence import OWN, Evidence, grouped, panel_names
from analysis.paper_scores import score_note
from analysis.registry import Drawing, NoDataError, PaperEntry, Sheet

EXPERIMENT, AGAIN = "ultrafeedback", "ultrafeedback_rerun"
MAIN = ("mmlu", "gsm8k_cot", "humaneval", "bbh_cot_fewshot")
"""The four tasks that every row of the paper's table has, whose mean is shown."""
ABLATIONS = {
    "kto_no_reference_point", "kto_concave", "kto_risk_neutral", "kto_no_reference", "kto_kahneman_tversky"
}  # fmt: skip


def rows_of_both(evidence: Evidence) -> pd.DataFrame:
    """Own and published scores. Raises NoDataError where the sweep has no ablation of KTO and the study no table."""
    published = paper_scores.published(evidence, EXPERIMENT)
    names = dict(zip(published["task"], published["task_name"], strict=True))
    own = paper_scores.own(evidence, names)
    if not own["loss"].isin(ABLATIONS).any():
        own = own.iloc[:0]
    if own.empty and published.empty:
        raise NoDataError("no judged run is of an ablation of KTO")
    return paper_scores.together(own, published)


def draw(evidence: Evidence) -> Drawing:
    """A panel per task; those that own runs and the study share have both."""
    rows = rows_of_both(evidence)
    panels = []
    rows = rows.assign(panel=panel_names(rows))
    several = rows["panel"].nunique() > 1
    for (task, name), part in grouped(rows, ["task", "panel"]):
        title = f"{part['task_name'].iloc[0]}\n{name}" if several else str(part["task_name"].iloc[0])
        unit = "(%)" if part["scale"].iloc[0] == 100 else ""
        what = "win rate" if task in ("win_rate", "alpaca_eval_2") else "F1" if task == "tydiqa" else "score"
        drawn = part.dropna(subset=["value"])
        panels.append(dots.Panel(title, drawn, f"{what} {unit}".strip()))
    with style.settings():
        figure = dots.draw(panels)
    caption = (
        "Scores after alignment with each method; ablations of KTO leave out or change one part of its loss. The axes "
        f"do not start at 0 and differ between tasks. {score_note(rows)}"
    )
    return Drawing(figure, caption)


def make(evidence: Evidence) -> Sheet:
    """A line per method; the authors' own second run of two of them, in another code base, below."""
    rows = rows_of_both(evidence)
    again = paper_scores.published(evidence, AGAIN)
    tasks = tuple(task for task in MAIN if (rows["task"] == task).any())
    if (rows["origin"] == OWN).any():
        mine = rows[rows["origin"] == OWN]
        shared = tuple(task for task in tasks if (mine["task"] == task).any())
        tasks = shared if len(shared) > 1 else tasks
    if len(again):
        rows = paper_scores.together(rows, again.assign(variant="(run again)"))
    mean = f" Mean: of the tasks {', '.join(tasks)}." if tasks else ""
    caption = f"Scores (%) after alignment, with 95% intervals in brackets.{mean} {score_note(rows)}"
    return paper_scores.sheet(rows, caption, mean_of=tasks)


PAPER_FIGURE = PaperEntry(order=70, title="UltraFeedback and ablations of KTO", make=draw)
PAPER_TABLE = PaperEntry(order=70, title="UltraFeedback and ablations of KTO", make=make)
