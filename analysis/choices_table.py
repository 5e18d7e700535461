"""Table: whether a policy's probabilities of the choices of multiple-choice tasks mean what they say."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import calibration, style, text
from analysis.estimates import CELL, cells, estimates, rows_of, span, stream
from analysis.implied_rewards import matrices
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

MEASURES = {"correct": "accuracy", "confidence": "confidence", "brier": "brier"}


def calibrations(sweep: Sweep) -> pd.DataFrame:
    """One row per task and cell: accuracy, confidence, brier and ece with ``_low`` and ``_high``, bins, seeds, prompts
    (documents) and normalised."""
    table = sweep.choices
    if table.empty:
        raise NoDataError("no finished run recorded the choices of a benchmark (evaluation.benchmarks.choices)")
    rows = []
    for task, documents in table.groupby("task"):
        for cell, group in cells(documents):
            row: dict[str, Any] = {"task": task, **dict(zip(CELL, cell, strict=True))}
            for column, name in MEASURES.items():
                found = estimates(group, column, unit="doc_id", bounded=column == "correct").iloc[0]
                row |= {name: found["value"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            group = group.assign(example=group["doc_id"])
            p, y = matrices(group, "confidence", "correct")
            error = calibration.calibration(p, y, stream(f"calibration {task}", *cell))
            row |= {"ece": error.value, "ece_low": error.low, "ece_high": error.high}
            row |= {"bins": calibration.bins_of(p.shape[1]), "seeds": p.shape[0], "prompts": p.shape[1]}
            rows.append({**row, "normalised": bool(group["normalised"].any())})
    return pd.DataFrame(rows)


def make(sweep: Sweep) -> Sheet:
    """One row per task and cell."""
    numbers = calibrations(sweep)
    rows = []
    for row in rows_of(numbers):
        shown = {"Task": row["task"]}
        shown |= {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        shown |= {"n": f"{row['prompts']} × {row['seeds']}"}
        shown["Accuracy (%)"] = text.with_interval(row, "accuracy", 1, 100)
        shown["Confidence (%)"] = text.with_interval(row, "confidence", 1, 100)
        shown["ECE (%)"] = text.with_interval(row, "ece", 1, 100)
        shown["Brier score"] = text.with_interval(row, "brier", 3)
        rows.append(shown)
    caption = (
        "Calibration on multiple-choice tasks, with 95% intervals over documents and seeds. Probabilities are those of "
        "the choices among each other"
        + (
            ", of log-probabilities per character where the task is scored by acc_norm"
            if numbers["normalised"].any()
            else ""
        )
        + ". Confidence: that of the likeliest choice; above the accuracy the policy is too sure. ECE: expected "
        f"calibration error of that confidence, {span(numbers['bins'], 'bins')} of equal mass, debiased. Brier score: "
        f"over all choices, 0 to 2. n = {span(numbers['prompts'], 'documents')} × {span(numbers['seeds'], 'seeds')}."
    )
    return Sheet(numbers, pd.DataFrame(rows), caption)


TABLE = Entry(order=68, title="Calibration on multiple-choice tasks", make=make)
