"""The summary in words, generated from the statistics: what differs from what, by how much, and what cannot be told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from analysis import style, text
from analysis.estimates import CELL, Cell, differences, sample_size
from analysis.guards_table import warnings
from analysis.registry import NoDataError
from analysis.summary_table import gains
from analysis.win_rate import win_rates
from kto_bench.results import Sweep

ALPHA = 0.05


@dataclass(frozen=True)
class Finding:
    """One question, and the sentences that answer it."""

    question: str
    sentences: list[str]


def findings(sweep: Sweep) -> list[Finding]:
    """All questions that the sweep has data for, beginning with what it consists of."""
    found = [Finding("What was run?", _scope(sweep))]
    try:
        rates = win_rates(sweep)
    except NoDataError as reason:
        return [*found, Finding("Which loss wins?", [f"Cannot be said: {reason}."])]
    cells: list[Cell] = list(rates[CELL].itertuples(index=False, name=None))
    table = sweep.outcomes
    losses = [(a, b) for a, b in combinations(cells, 2) if a[:2] == b[:2] and "none" not in (a[2], b[2])]
    starts = [(b, a) for a, b in combinations(cells, 2) if (a[0], a[2]) == (b[0], b[2]) and a[1] != b[1]]
    found += [
        Finding("Which loss wins?", _compare(differences(table, "preference", losses), _loss_and_start)),
        Finding("Does alignment help its start?", _compare(gains(sweep), _loss_and_start)),
        Finding("Does the start matter?", _compare(differences(table, "preference", starts), _start_of_loss)),
        Finding("What should be read with care?", _cautions(sweep, rates)),
    ]
    return [finding for finding in found if finding.sentences]


def _scope(sweep: Sweep) -> list[str]:
    counts = sweep.runs["state"].value_counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    seeds = sweep.runs.loc[sweep.runs["seed"] >= 0, "seed"].nunique()
    sentences = [f"The sweep has {_count(len(sweep.runs), 'run')} ({states}) with {_count(seeds, 'seed')}."]
    judged = sweep.outcomes.dropna(subset=["preference"])
    if len(judged):
        judges = ", ".join(sorted(sweep.guards["judge"].dropna().astype(str).unique())) or "unknown"
        prompts = judged["prompt_id"].nunique()
        sentences.append(
            f"Every finished run was compared head to head with the reference completions of {prompts} held-out prompts by the judge "
            f"{judges}; a tie counts as half a win. Differences below are in points of win rate, paired by seed and prompt, "
            "with 95% intervals; p-values are adjusted by Holm's method for all comparisons of the same question."
        )
    return sentences


def _compare(rows: pd.DataFrame, describe: Callable[[Cell, Cell], tuple[str, str, str]]) -> list[str]:
    """Sentences on the differences that stand out, then one on those that do not."""
    if rows.empty:
        return []
    sentences, unclear = [], []
    for row in rows.sort_values("value", key=lambda v: -v.abs(), kind="stable").to_dict("records"):
        winner, loser = (row["first"], row["second"]) if row["value"] >= 0 else (row["second"], row["first"])
        if row["p_holm"] < ALPHA:
            context, better, worse = describe(winner, loser)
            sentences.append(f"{context}{better} wins {_points(row)} more often than {worse} ({_evidence(row)}).")
        else:
            context, first, second = describe(row["first"], row["second"])
            size = text.with_interval(row, "value", 1, 100, sign=True)
            unclear.append(f"{context[:1].lower()}{context[1:]}{first} − {second}: {size}")
    if unclear:
        sentences.append(
            f"Cannot be told apart with {sample_size(rows)} (difference in points with its interval): {'; '.join(unclear)}. That is no "
            "evidence of equality: any difference within an interval remains possible."
        )
    return sentences


def _points(row: dict[str, Any]) -> str:
    return f"{text.number(abs(row['value']), 1, 100)} points"


def _evidence(row: dict[str, Any]) -> str:
    low, high = sorted([abs(row["low"]), abs(row["high"])]) if row["low"] * row["high"] > 0 else (row["low"], row["high"])
    interval = f"{text.number(low, 1, 100)} to {text.number(high, 1, 100)}"
    p = text.p_value(row["p_holm"])
    return (
        f"95% interval {interval}; adjusted p {p if p.startswith('<') else '= ' + p}; "
        f"{_count(row['seeds'], 'seed')} × {_count(row['prompts'], 'prompt')}"
    )


def _loss_and_start(first: Cell, second: Cell) -> tuple[str, str, str]:
    setting = f"{first[0]}, f" if first[0] else "F"
    return f"{setting}rom the {style.start_name(first[1])} start, ", style.loss_name(first[2]), style.loss_name(second[2])


def _start_of_loss(first: Cell, second: Cell) -> tuple[str, str, str]:
    setting = f"{first[0]}: " if first[0] else ""
    loss = style.loss_name(first[2])
    return setting, f"{loss} from {style.start_name(first[1])}", f"{loss} from {style.start_name(second[1])}"


def _cautions(sweep: Sweep, rates: pd.DataFrame) -> list[str]:
    sentences = []
    seeds = int(rates["seeds"].min())
    if seeds == 1:
        sentences.append(
            "Some cells have a single seed: what is said of them holds for these checkpoints; another seed may differ by more than "
            "the intervals show."
        )
    elif seeds < 5:
        sentences.append(
            f"With {seeds} seeds the variation between seeds is itself poorly known: where seeds matter more than prompts, these "
            f"95% intervals cover the truth in about {'78' if seeds == 2 else '89'}% of cases (measured by simulation)."
        )
    for row in sweep.guards.to_dict("records"):
        found = warnings(row)
        if found:
            name = f"{style.loss_name(row['method'])} from {style.start_name(row['start'])}"
            sentences.append(f"{name}, seed {row['seed']}: {'; '.join(found)}.")
    lost = sweep.runs[sweep.runs["state"] != "done"]
    if len(lost):
        sentences.append(f"{_count(len(lost), 'run')} did not finish and appear in no score; see “Runs”.")
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
