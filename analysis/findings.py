"""The summary in words, generated from the statistics: what differs from what, by how much, and what cannot be told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis import style, text
from analysis.budget_table import matched
from analysis.comparisons import (
    ALPHA,
    LOSSES,
    POWER,
    STARTS,
    WIN_RATE,
    Outcome,
    Question,
    asked,
    detectable,
    least,
    needed,
)
from analysis.estimates import Cell, cells, rows_of, sample_size
from analysis.guards_table import warnings
from analysis.registry import NoDataError
from analysis.trials import trials_of
from analysis.win_rate import win_rates
from kto_bench.results import KEYS, Sweep

NO_EVIDENCE = "This is no evidence of equality: any difference within an interval remains possible."
UNDERPOWERED = (
    "These comparisons are underpowered: with this n and variation between seeds, not even the largest possible "
    f"difference is found with {100 * POWER:.0f}% chance."
)
LISTED = 200
"""Differences that are not clear, of one question, that its list has, largest first; the table has all."""
NAMED = 3
"""Differences in a secondary outcome that its sentence spells out, largest first."""


@dataclass(frozen=True)
class Finding:
    """One question, the sentences that answer it, and a list with its introduction of what it leaves open."""

    question: str
    sentences: list[str]
    introduction: str = ""
    unclear: tuple[str, ...] = ()


def findings(sweep: Sweep) -> list[Finding]:
    """All questions that the sweep has data for, beginning with what it consists of."""
    found = [Finding("What was run?", _scope(sweep))]
    try:
        rates = win_rates(sweep)
    except NoDataError as reason:
        found.append(Finding(LOSSES, [f"Cannot be said: {reason}."]))
        told = _secondary(sweep)
        return [*found, Finding("What else differs?", told)] if told else found
    found += [_compare(question) for question in asked(sweep) if question.outcome.name == WIN_RATE]
    found.append(Finding("What else differs?", _secondary(sweep)))
    found.append(Finding("What should be read with care?", _cautions(sweep, rates)))
    return _once([finding for finding in found if finding.sentences or finding.unclear])


def _once(found: list[Finding]) -> list[Finding]:
    """The findings, with what the introductions of several have in common said by the first of them only."""
    said: set[str] = set()
    told = []
    for finding in found:
        words = finding.introduction
        for sentence in (NO_EVIDENCE, UNDERPOWERED):
            if sentence in words and sentence in said:
                words = words.replace(f" {sentence}", "")
            elif sentence in words:
                said.add(sentence)
        told.append(replace(finding, introduction=words))
    return told


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
            f"Every finished run was compared head to head with the reference completions of {prompts} held-out "
            f"prompts by the judge {judges}; a tie counts as half a win. Differences below are in points of win rate, "
            "paired by seed and prompt, with 95% intervals; p-values are adjusted by Holm's method for all "
            "comparisons of the same question."
        )
    if len(sweep.budgets):
        sentences.append(matched(sweep))
    if sweep.trials:
        sentences.append(_tuning(sweep))
    return sentences


def _tuning(sweep: Sweep) -> str:
    trials = trials_of(sweep)
    counts = sorted({len(one.records) for one in trials})
    settings = f"{counts[0]} trials" if len(counts) == 1 else f"between {counts[0]} and {counts[-1]} trials"
    waiting = sum(one.chosen is None for one in trials)
    left = f" {_count(waiting, 'cell')} {'have' if waiting > 1 else 'has'} no winner yet." if waiting else ""
    return (
        f"Every loss was tuned with {settings} from its own space on one seed, and chosen by its "
        f"{trials[0].score_name.removesuffix(' (%)')} on validation prompts; all comparisons here are of the winners, "
        f"on other seeds and other prompts (see “Tuning”).{left}"
    )


def _compare(question: Question) -> Finding:
    """Sentences on the differences that stand out, and a list of those that do not, with what could have been seen."""
    rows, outcome = question.rows, question.outcome
    describe = _start_of_loss if question.name == STARTS else _loss_and_start
    sentences: list[str] = []
    unclear: list[str] = []
    open_rows: list[dict[str, Any]] = []
    for row in rows_of(rows.sort_values("value", key=lambda v: -v.abs(), kind="stable")):
        winner, loser = (row["first"], row["second"]) if row["value"] >= 0 else (row["second"], row["first"])
        context, better, worse = describe(winner, loser)
        if row["p_holm"] < ALPHA:
            told = _evidence(row, outcome)
            sentences.append(_sentence(winner, f"{context}{better} wins more often than {worse}, by {told}."))
        else:
            open_rows.append(row)
            # For the largest only: that of a difference near 0 says nothing.
            plan = _plan(row, len(rows)) if not unclear else ""
            told = f"{_evidence(row, outcome, n=False)}{plan}"
            unclear.append(_sentence(winner, f"{context}{better} and {worse}: {told}"))
    if not unclear:
        return Finding(question.name, sentences)
    introduction = (
        f"Cannot be told apart with {sample_size(rows)}, after adjusting for {_count(len(rows), 'comparison')}. "
        f"{NO_EVIDENCE}"
    )
    open_rows.sort(key=lambda row: row["high"] - row["low"])  # the most and the least that is uncertain span the rest
    seen = [detectable(row, len(rows)) for row in (open_rows[0], open_rows[-1])]
    if any(value > 0 for value in seen):
        found = least(seen, outcome)
        introduction += (
            f" With this n, a true difference is found with {100 * POWER:.0f}% chance only if it is {found}: the "
            "comparisons are underpowered for anything smaller."
            if found
            else f" {UNDERPOWERED}"
        )
    if len(unclear) > LISTED:
        introduction += f" The {LISTED} largest of {len(unclear):,} are listed; the table “Comparisons” has all."
    return Finding(question.name, sentences, introduction, tuple(unclear[:LISTED]))


def _plan(row: dict[str, Any], comparisons: int) -> str:
    """What a difference of the observed size would need; nothing where the difference is 0."""
    if row["value"] == 0 or row["prompts"] < 2:
        return ""
    prompts, seeds = needed(row, comparisons)
    enough = [
        *([f"{prompts:,} prompts with {_count(row['seeds'], 'seed')}"] if prompts and prompts > row["prompts"] else []),
        *([f"{seeds:,} seeds with {_count(row['prompts'], 'prompt')}"] if seeds and seeds > row["seeds"] else []),
    ]
    if enough:
        return f". To find a true difference of that size, as far as these runs tell: {' or '.join(enough)}"
    return ". To find a true difference of that size takes both more prompts and more seeds" if row["seeds"] > 1 else ""


def _secondary(sweep: Sweep) -> list[str]:
    """A sentence per other outcome on the differences between losses, adjusted within that outcome."""
    sentences: list[str] = []
    none: dict[str, list[str]] = {}
    for question in asked(sweep):
        outcome = question.outcome
        if question.name != LOSSES or outcome.name == WIN_RATE:
            continue
        rows = question.rows.sort_values("value", key=lambda v: -v.abs(), kind="stable")
        clear = rows_of(rows[rows["p_holm"] < ALPHA])
        named = [_higher(row, outcome) for row in clear[:NAMED]]
        more = f", and {len(clear) - NAMED} more" if len(clear) > NAMED else ""
        name = outcome.name.capitalize() if outcome.per == "prompt_id" else outcome.name
        left = len(rows) - len(clear)
        if not clear:
            typical = rows_of(rows.assign(width=rows["high"] - rows["low"]).sort_values("width"))[len(rows) // 2]
            seen = detectable(typical, len(rows))
            found = least([seen], outcome) if seen > 0 else ""
            chance = f"{100 * POWER:.0f}% chance"
            power = f" (a true one is typically found with {chance} only if it is {found})" if found else ""
            if seen > 0 and not found:
                power = f" (typically, not even the largest possible one is found with {chance})"
            none.setdefault(power, []).append(name)
            continue
        rest = f" The other {left} of {_count(len(rows), 'comparison')} cannot be told apart." if left else ""
        sentences.append(f"{name}: {'; '.join(named)}{more}.{rest}")
    for power, names in none.items():
        sentences.append(f"{', '.join(names)}: no difference stands out{power}.")
    if none:
        sentences[-1] += " That does not show that the losses are alike."
    if sentences:
        sentences.append(
            "Each of these outcomes is a question of its own, adjusted for its own comparisons and not for the number "
            "of outcomes; the table “Comparisons” has all of them."
        )
    return sentences


def _higher(row: dict[str, Any], outcome: Outcome) -> str:
    first, second = (row["first"], row["second"]) if row["value"] >= 0 else (row["second"], row["first"])
    context, more, less = _loss_and_start(first, second)
    return f"{context}{more} is above {less} by {_evidence(row, outcome, n=False)}"


def _evidence(row: dict[str, Any], outcome: Outcome, n: bool = True) -> str:
    """The lead of the winner with its interval, the adjusted p-value and, if asked for, ``n``."""
    sign = 1 if row["value"] >= 0 else -1
    low, high = sorted([sign * row["low"], sign * row["high"]])
    p = text.p_value(row["p_holm"])
    shown = (outcome.digits, outcome.scale)
    parts = [
        f"95% interval {text.number(low, *shown)} to {text.number(high, *shown)}",
        f"adjusted p {p if p.startswith('<') else f'= {p}'}",
        *([f"{_count(row['seeds'], 'seed')} × {_count(row['prompts'], 'prompt')}"] if n else []),
    ]
    return f"{text.number(abs(row['value']), *shown)}{outcome.unit} ({'; '.join(parts)})"


def _loss_and_start(first: Cell, second: Cell) -> tuple[str, str, str]:
    context = f"{f'{first[0]}, ' if first[0] else ''}from the {style.start_name(first[1])} start, "
    better, worse = ("the start alone" if cell[2] == "none" else style.loss_name(cell[2]) for cell in (first, second))
    return context, better, worse


def _start_of_loss(first: Cell, second: Cell) -> tuple[str, str, str]:
    better, worse = (_cell_name(cell) for cell in (first, second))
    return f"{first[0]}: " if first[0] else "", better, worse


def _cell_name(cell: Cell) -> str:
    start = style.start_name(cell[1])
    return f"the {start} start alone" if cell[2] == "none" else f"{style.loss_name(cell[2])} from {start}"


def _cautions(sweep: Sweep, rates: pd.DataFrame) -> list[str]:
    sentences = []
    seeds = int(rates["seeds"].min())
    if seeds == 1:
        sentences.append(
            "Some cells have a single seed: what is said of them holds for these checkpoints; another seed may differ "
            "by more than the intervals show."
        )
    elif seeds < 5:
        sentences.append(
            f"With {seeds} seeds the variation between seeds is itself poorly known. The intervals are wide for that "
            f"reason: up to {'12.7' if seeds == 2 else '4.3' if seeds == 3 else '3.2'} standard errors on either side, "
            "where five seeds need 2.8, and more for adjusted p-values. What cannot be told apart here may be with "
            "more seeds."
        )
    for cell, runs in cells(sweep.guards):
        means = runs.drop(columns=[*KEYS, "judge"]).mean().to_dict()
        found = warnings({str(key): value for key, value in means.items()})
        if found:
            name = f"{f'{cell[0]}: ' if cell[0] else ''}{_cell_name(cell)}"
            mean = f"mean of {_count(len(runs), 'run')}"
            sentences.append(_sentence(cell, f"{name}: {'; '.join(found)} ({mean})."))
    backends = sorted(sweep.backends["backend"].unique())
    if len(backends) > 1:
        counts = sweep.backends["backend"].value_counts()
        told = " and ".join(f"{_count(int(counts[name]), 'run')} by {name}" for name in backends)
        sentences.append(
            f"The completions were generated by different programs ({told}), which sample differently: no comparison "
            "between them is of the losses alone. Run all of a table with one evaluation.generation.backend."
        )
    warned = sweep.warnings["run"].nunique()
    if warned:
        sentences.append(f"{_count(warned, 'run')} came with warnings about data or training; see “Warnings”.")
    lost = sweep.runs[sweep.runs["state"] != "done"]
    if len(lost):
        sentences.append(f"{_count(len(lost), 'run')} did not finish and appear in no score; see “Runs”.")
    return sentences


def _sentence(cell: Cell, words: str) -> str:
    """Begins with a capital, except where it begins with the name of a setting."""
    return words if cell[0] else words[0].upper() + words[1:]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
