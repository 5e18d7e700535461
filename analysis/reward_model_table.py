"""Table: the implied reward as a classifier of held-out feedback: accuracy, Brier score, calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis import calibration, style, text
from analysis.estimates import CELL, estimates, rows_of, span, stream
from analysis.implied_rewards import examples, kinds, matrices, probabilities
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

MISSING = dict.fromkeys(("value", "low", "high"), np.nan)
SCALES = {"own": "own scale", "fitted": "fitted scale"}


def classification(sweep: Sweep) -> pd.DataFrame:
    """One row per cell and kind (pairs or single completions) of held-out examples.

    Columns of the cell, pair, seeds, prompts (examples), bins, scale (fitted, mean over seeds), and for accuracy,
    brier_own, brier_fitted, ece_own and ece_fitted the value, ``_low`` and ``_high``.
    """
    heldout = examples(sweep).query("split == 'heldout'")
    if heldout.empty:
        raise NoDataError("no finished run has implied rewards of held-out feedback (docs/measures.md)")
    rows = []
    for (cell, pair), group in kinds(probabilities(heldout)).items():
        row: dict[str, Any] = {**dict(zip(CELL, cell, strict=True)), "pair": pair}
        numbers = {"accuracy": "right", **{f"brier_{scale}": f"brier_{scale}" for scale in SCALES}}
        for name, column in numbers.items():
            for found in rows_of(estimates(group, column, unit="example", bounded=name == "accuracy")) or [MISSING]:
                row |= _columns(name, found["value"], found["low"], found["high"])
        for scale in SCALES:
            p, y = matrices(group, f"confidence_{scale}", f"correct_{scale}")
            if p.size:
                error = calibration.calibration(p, y, stream(f"calibration {scale} {pair}", *cell))
                row |= _columns(f"ece_{scale}", error.value, error.low, error.high)
            else:
                row |= _columns(f"ece_{scale}", *(np.nan,) * 3)
        margins, outcomes = matrices(group, "margin", "outcome")
        scales = [calibration.fitted_scale(m, o) for m, o in zip(margins, outcomes, strict=True)]
        row |= {"scale": float(np.mean(scales)), "bins": calibration.bins_of(margins.shape[1])}
        row |= {"seeds": margins.shape[0], "prompts": margins.shape[1]}
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def make(sweep: Sweep) -> Sheet:
    """One row per cell and kind of example."""
    numbers = classification(sweep)
    rows = []
    for row in rows_of(numbers):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        shown |= {"Feedback": "pairs" if row["pair"] else "thumbs"}
        shown["n"] = f"{row['prompts']} × {text.number(row['seeds'], 0)}"
        shown["Accuracy (%)"] = text.with_interval(row, "accuracy", 1, 100)
        for measure, title, digits, scale in (("brier", "Brier score", 3, 1), ("ece", "ECE (%)", 1, 100)):
            for name, words in SCALES.items():
                shown[f"{title}, {words}"] = text.with_interval(row, f"{measure}_{name}", digits, scale)
        shown["Fitted scale"] = text.number(row["scale"], 3)
        rows.append(shown)
    caption = (
        "The implied reward as a classifier of feedback that was never trained on, with 95% intervals over examples "
        "and seeds. Of pairs: the probability σ(r_chosen − r_rejected) that the label is what it is; of thumbs: σ(r − "
        "reference point) that the completion is desirable. Own scale: the loss's reward as it is, its beta included; "
        "a dash where the loss states no reward, and the mean log-probability per token stands in. Fitted scale: "
        "σ(k·), with one k per run, fitted on one half of the examples and used on the other. ECE: expected "
        f"calibration error with {span(numbers['bins'], 'bins')} of equal mass, debiased. A coin has Brier score 0.25. "
        f"n = {span(numbers['prompts'], 'examples')} × {span(numbers['seeds'], 'seeds')}."
    )
    return Sheet(numbers, pd.DataFrame(rows), caption)


TABLE = Entry(order=60, title="Implied reward as a classifier", make=make)
