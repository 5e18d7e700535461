"""Table: the score guards of every run, beside the number of prompts that were judged."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import style, text
from analysis.estimates import in_order, rows_of
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

LIMITS = {
    "share_capped": (0.05, "hit the token limit"),
    "share_empty": (0.01, "are empty"),
    "repetition_4gram": (0.20, "repeated 4-grams"),
}
"""Guard -> the share above which a score is shown with a warning, because the guard may explain it; and what to say."""
OF_THE_JUDGE = {
    "first_preferred": ("First preferred (%)", 1, 100),
    "consistent": ("Same in both orders (%)", 1, 100),
    "noise": ("Judge noise", 2, 100),
    "dollars": ("Judge cost ($)", 2, 1),
}
"""Column -> title, digits and scale of what is known of some judges."""


def warnings(row: dict[str, Any]) -> list[str]:
    """What a reader of this run's scores should know first; empty if nothing stands out."""
    found = [
        f"{text.number(row[guard], 0, 100)}% {words}"
        for guard, (limit, words) in LIMITS.items()
        if row.get(guard, 0) > limit
    ]
    if pd.notna(row["judged"]) and row["judged"] != row["n"]:
        found.append(f"only {row['judged']:.0f} of {row['n']:.0f} prompts were judged")
    return found


def make(sweep: Sweep) -> Sheet:
    """One row per finished run."""
    numbers = in_order(sweep.guards)
    if numbers.empty:
        raise NoDataError("no finished run has score guards")
    rows = []
    for row in rows_of(numbers):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {
            "Start": style.start_name(row["start"]),
            "Loss": style.loss_name(row["method"]),
            "Seed": str(row["seed"]),
        }
        shown |= {"n": text.number(row["n"], 0), "Judged": text.number(row["judged"], 0)}
        shown["Mean tokens"] = text.number(row["mean_tokens"], 1)
        for key, name in (("share_capped", "Capped"), ("share_empty", "Empty"), ("repetition_4gram", "Repeated")):
            shown[f"{name} (%)"] = text.number(row.get(key, float("nan")), 1, 100)
        for key, (name, digits, scale) in OF_THE_JUDGE.items():
            if key in numbers:
                shown[name] = text.number(row[key], digits, scale)
        shown["Warning"] = "; ".join(warnings(row))
        rows.append(shown)
    caption = (
        "Score guards, by run: prompts answered (n) and judged, mean tokens, and the shares of completions that hit "
        "the token limit, are empty, or of 4-grams that repeat. A win rate with a warning may measure the guard "
        "rather than the quality."
    )
    if "first_preferred" in numbers:
        caption += (
            " First preferred: how often the judge prefers the output that it is shown first (50% is fair). Same in "
            "both orders: the share of prompts whose verdict does not depend on that. Judge noise: the standard error "
            "of the win rate, in points, that differing answers to one question make alone."
        )
    return Sheet(numbers, pd.DataFrame(rows), caption)


TABLE = Entry(order=20, title="Score guards", make=make)
