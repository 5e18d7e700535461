"""Figure and table: many losses, tuned alike, on questions that a model judges (SimPO paper Table 4)."""

from __future__ import annotations

import pandas as pd

from analysis import dots, paper_scores, style
from analysis.evidence import OWN, Evidence, grouped, panel_names
from analysis.paper_scores import score_note
from analysis.registry import Drawing, NoDataError, PaperEntry, Sheet

EXPERIMENTS = ("main", "armorm", "replication_bco")
HEADLINE = ("alpaca_eval_2_lc", "win_rate")
"""Tasks of which there is a figure."""


def rows_of_both(evidence: Evidence) -> pd.DataFrame:
    """Published scores, and of own runs the best setting of each loss, start and model by win rate.

    Raises NoDataError unless the study has such a table or the sweep has SimPO under several settings.
    """
    published = [paper_scores.published(evidence, experiment) for experiment in EXPERIMENTS]
    own = paper_scores.own(evidence)
    grids = own[own["task"] == "win_rate"].groupby(["loss", "start", "name"], sort=False)["variant"].nunique()
    own = _best(own) if "simpo" in set(own["loss"]) and (grids > 1).any() else own.iloc[:0]
    if own.empty and all(part.empty for part in published):
        raise NoDataError("the sweep has no grid of settings that includes SimPO")
    return paper_scores.together(own, *published)


def _best(own: pd.DataFrame) -> pd.DataFrame:
    rates = own[own["task"] == "win_rate"].sort_values("value", ascending=False, kind="stable")
    best = rates.drop_duplicates(["loss", "start", "name"])[["loss", "start", "name", "variant"]]
    tried = rates.groupby(["loss", "start", "name"], sort=False).size().rename("tried").reset_index()
    kept = own.merge(best, on=["loss", "start", "name", "variant"]).merge(tried, on=["loss", "start", "name"])
    return kept.assign(source=[f"best of {count}" for count in kept["tried"]])[list(own.columns)]


def draw(evidence: Evidence) -> Drawing:
    """A panel per model, of length-controlled win rates (own runs: win rates)."""
    rows = rows_of_both(evidence)
    drawn = paper_scores.published(evidence, EXPERIMENTS[0])
    shown = paper_scores.together(rows[(rows["origin"] == OWN) & rows["task"].isin(HEADLINE)], drawn)
    shown = shown[shown["task"].isin(HEADLINE)]
    panels = []
    for (name, task), part in grouped(shown.assign(panel=panel_names(shown)), ["panel", "task"]):
        label = (
            "win rate (%)" if task == "win_rate" else style.fitting("length-controlled win rate (%)", "LC win rate (%)")
        )
        panels.append(dots.Panel(str(name), part, label))
    with style.settings():
        figure = dots.draw(panels)
    caption = (
        "Each loss with the best of its grid of settings: length-controlled win rate on AlpacaEval 2 (published) or "
        f"win rate against the data's completions (own). The axes differ between models. "
        f"{_tuned(shown)}{score_note(shown)}"
    )
    return Drawing(figure, caption)


def make(evidence: Evidence) -> Sheet:
    """A line per model and loss."""
    rows = rows_of_both(evidence)
    caption = (
        "Each loss with the best of its grid of settings; none is the model that alignment started from. Scores in % "
        f"(MT-Bench: out of 10) with 95% intervals in brackets. {_tuned(rows)}{score_note(rows)}"
    )
    return paper_scores.sheet(rows, caption)


def _tuned(rows: pd.DataFrame) -> str:
    if not (rows["origin"] == OWN).any():
        return ""
    return (
        "Own settings were chosen by the win rate that is shown, which is too good by what the best of several noisy "
        "scores gains by luck. "
    )


PAPER_FIGURE = PaperEntry(order=80, title="Losses tuned alike", make=draw)
PAPER_TABLE = PaperEntry(order=80, title="Losses tuned alike", make=make)
