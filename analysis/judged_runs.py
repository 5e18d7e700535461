"""Table: all judged runs of a published study, with intervals of their counts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import style, text
from analysis.estimates import rows_of
from analysis.evidence import Evidence, method_name
from analysis.registry import NoDataError, PaperEntry, Sheet


def make(evidence: Evidence) -> Sheet:
    """A line per judged run."""
    study = evidence.published
    if study is None or study.judged.empty:
        raise NoDataError("no published study with judged runs")
    parts = [evidence.judged(experiment) for experiment in study.judged["experiment"].unique()]
    numbers = pd.concat(parts, ignore_index=True).query("origin == 'published'")
    numbers = numbers.drop(columns=["origin", "cell", "feedback", "variant", "seeds", "interval"]).reset_index(
        drop=True
    )
    shown = []
    for row in rows_of(numbers):
        kept = [f"{100 * row[f'keep_{name}']:g}%" for name in ("desirable", "undesirable")]
        weights = [f"{row[f'{name}_weight']:g}" for name in ("desirable", "undesirable")]
        shown.append(
            {
                "Experiment": str(row["experiment"]).replace("_", " "),
                "Model": row["name"],
                "Start": style.start_name(row["start"]),
                "Method": method_name(row["loss"], bool(row["one_completion_per_prompt"])),
                "Kept": " / ".join(kept) if kept != ["100%", "100%"] else "all",
                "Weights": text.MISSING if np.isnan(row["desirable_weight"]) else " / ".join(weights),
                "Wins": f"{row['wins']:.0f} of {row['n']:.0f}",
                "Win rate (%)": text.with_interval(row, digits=1, scale=100),
                "Mean tokens": text.number(row["mean_tokens"], 0),
                "Median tokens": text.number(row["median_tokens"], 0),
                "Judge": row["judge"],
            }
        )
    caption = (
        f"Judged runs of {study.citation}: wins against the completions of the data, with 95% Wilson intervals (draw "
        "of prompts only; one seed each). Kept and weights: desirable / undesirable completions. Start SFT with method "
        f"“{style.loss_name('none')}” is the SFT model. Sources are in the CSV and in results/published/{study.name}."
    )
    return Sheet(numbers, pd.DataFrame(shown), caption)


PAPER_TABLE = PaperEntry(order=90, title="Judged runs of the study", make=make)
