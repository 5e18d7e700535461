"""Table: the scores of a published study that no other table has."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import paper_scores, simpo_scores, style, text, ultrafeedback
from analysis.estimates import rows_of
from analysis.evidence import Evidence, method_name
from analysis.registry import NoDataError, PaperEntry, Sheet

ELSEWHERE = {*simpo_scores.EXPERIMENTS, ultrafeedback.EXPERIMENT, ultrafeedback.AGAIN}
"""Experiments that have a table of their own."""


def make(evidence: Evidence) -> Sheet:
    """A line per score of the experiments that no figure or table shows."""
    study = evidence.published
    experiments = [] if study is None else [e for e in study.scores["experiment"].unique() if e not in ELSEWHERE]
    if study is None or not experiments:
        raise NoDataError("no published study with other scores")
    parts = []
    for experiment in experiments:
        rows = paper_scores.published(evidence, experiment)
        known = evidence.scores(experiment)[["beta", "learning_rate"]]
        parts.append(pd.concat([rows.assign(experiment=experiment), known], axis=1))
    numbers = pd.concat(parts, ignore_index=True).drop(columns=["variant"])
    shown = []
    for row in rows_of(numbers):
        settings = [
            f"{name} {row[key]:g}"
            for name, key in (("beta", "beta"), ("learning rate", "learning_rate"), ("temperature", "temperature"))
            if not np.isnan(row[key])
        ]
        shown.append(
            {
                "Experiment": str(row["experiment"]).replace("_", " "),
                "Model": row["name"],
                "Start": style.start_name(row["start"]),
                "Method": method_name(row["loss"], bool(row["one_completion_per_prompt"])),
                "Settings": ", ".join(settings) or text.MISSING,
                "Task": row["task_name"],
                "Score": paper_scores.cell(row),
            }
        )
    caption = f"Other scores of {study.citation}. {paper_scores.score_note(numbers)}"
    return Sheet(numbers, pd.DataFrame(shown), caption)


PAPER_TABLE = PaperEntry(order=95, title="Other scores of the study", make=make)
