"""Table: the score guards of every run, beside the number of prompts that were judged."""

from __future__ import annotations

import pandas as pd

from analysis import style, text
from analysis.estimates import cell_order
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

CAPPED, EMPTY, REPEATED = 0.05, 0.01, 0.20
"""Shares above which a score is shown with a warning: by then they move a win rate by more than its interval usually is wide."""


def warnings(row: dict[str, object]) -> list[str]:
    """What a reader of this run's scores should know first; empty if nothing stands out."""
    found = []
    if float(str(row.get("share_capped", 0))) > CAPPED:
        found.append(f"{text.number(float(str(row['share_capped'])), 0, 100)}% hit the token limit")
    if float(str(row.get("share_empty", 0))) > EMPTY:
        found.append(f"{text.number(float(str(row['share_empty'])), 0, 100)}% are empty")
    if float(str(row.get("repetition_4gram", 0))) > REPEATED:
        found.append(f"{text.number(float(str(row['repetition_4gram'])), 0, 100)}% repeated 4-grams")
    judged, prompts = row.get("judged"), row.get("n")
    if pd.notna(judged) and judged != prompts:
        found.append(f"only {judged} of {prompts} prompts were judged")
    return found


def make(sweep: Sweep) -> Sheet:
    """One row per finished run."""
    numbers = sweep.guards
    if numbers.empty:
        raise NoDataError("no finished run has score guards")
    order = sorted(
        numbers.index,
        key=lambda i: (cell_order(tuple(numbers.loc[i, ["setting", "start", "method"]])), numbers.loc[i, "seed"]),
    )
    numbers = numbers.loc[order].reset_index(drop=True)
    rows = []
    for row in numbers.to_dict("records"):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"]), "Seed": str(row["seed"])}
        shown |= {"n": text.number(row["n"], 0), "Judged": text.number(row["judged"], 0)}
        shown["Mean tokens"] = text.number(row["mean_tokens"], 1)
        for key, name in (("share_capped", "Capped"), ("share_empty", "Empty"), ("repetition_4gram", "Repeated")):
            shown[f"{name} (%)"] = text.number(row.get(key, float("nan")), 1, 100)
        shown["Warning"] = "; ".join(warnings(row))
        rows.append(shown)
    caption = (
        "Score guards, by run: prompts answered (n) and judged, mean tokens, and the shares of completions that hit the token limit, "
        "are empty, or of 4-grams that repeat. A win rate with a warning may measure the guard rather than the quality."
    )
    return Sheet(numbers, pd.DataFrame(rows), caption)


TABLE = Entry(order=20, title="Score guards", make=make)
