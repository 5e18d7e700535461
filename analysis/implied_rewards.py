"""The implied reward as a classifier of feedback: a margin for each labelled example, and what it says of the label."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit

from analysis.calibration import fitted_probabilities
from analysis.estimates import Cell, cells
from analysis.registry import NoDataError
from analysis.statistics import Matrix
from kto_bench.results import KEYS, Sweep

TRUTHS = ("utility", "perceived", "correct", "majority", "minority")
"""Scores that say how good a completion is, rather than what it is like."""


def examples(sweep: Sweep) -> pd.DataFrame:
    """One row per run and labelled example: the columns KEYS, example, split, mislabelled, declared, pair, margin,
    outcome, right and against_gold.

    Of a pair, ``margin`` is the reward of the chosen completion less that of the rejected one, and ``outcome`` is 1. Of
    a single completion it is the reward less the reference point, and ``outcome`` its label, 1 or 0; a loss without a
    reference point has 0 in its place, and a reward that no loss states its mean over the run's examples. ``right`` is
    1 where the margin sides with the label, 1/2 where it is 0. ``against_gold`` is whether a pair's label contradicts
    the gold utility (None where that is unknown, or equal).

    Raises NoDataError where no finished run has implied rewards.
    """
    table = sweep.implied_rewards
    if table.empty:
        raise NoDataError("no finished run recorded implied rewards (evaluation.implied_reward)")
    about = [*KEYS, "example", "split", "mislabelled", "declared"]
    parts = []
    single = table[table["side"] == "completion"]
    if len(single):
        own = single.groupby("run")["reward"].transform("mean").where(~single["declared"].astype(bool), 0.0)
        margin = single["reward"] - single["reference_point"].astype(float).fillna(own)
        outcome = single["desirable"].astype(float)
        parts.append(single[about].assign(pair=False, margin=margin, outcome=outcome, against_gold=None))
    sides = [table[table["side"] == side].set_index(["run", "example", "split"]) for side in ("chosen", "rejected")]
    if len(sides[0]):
        chosen, rejected = sides[0], sides[1].loc[sides[0].index]
        against: pd.Series | None = None
        if "utility" in table:
            difference = (chosen["utility"] - rejected["utility"]).astype(float)
            against = (difference < 0).astype(object).where(difference.notna() & (difference != 0), None)
        found = chosen.assign(
            pair=True, margin=chosen["reward"] - rejected["reward"], outcome=1.0, against_gold=against
        ).reset_index()
        parts.append(found[[*about, "pair", "margin", "outcome", "against_gold"]])
    rows = pd.concat([part.astype({"against_gold": object}) for part in parts], ignore_index=True)
    agrees = np.sign(rows["margin"]) * (2 * rows["outcome"] - 1)
    return rows.assign(right=(agrees + 1) / 2)


def probabilities(rows: pd.DataFrame) -> pd.DataFrame:
    """``examples`` of one kind with columns own and fitted, confidence_own and confidence_fitted, and correct_*.

    own is sigma(margin), as the loss means it: NaN where it states no reward. fitted is sigma(k margin), with one k per
    run and half of its examples, fitted on the other half. Of pairs they are the probability that the chosen completion
    is preferred, of single ones that the completion is desirable. ``brier_*`` is (probability - outcome)^2. What
    calibration compares: of pairs the confidence max(p, 1 - p) with being right, since one side is as good as the other
    to begin with; of single completions p with the label.
    """
    parts = []
    for _, run in rows.groupby("run", sort=False):
        run = run.sort_values("example")
        margins, outcomes = run["margin"].to_numpy(float), run["outcome"].to_numpy(float)
        declared = run["declared"].to_numpy(bool)
        scaled = {"own": np.where(declared, expit(margins), np.nan), "fitted": fitted_probabilities(margins, outcomes)}
        for name, p in scaled.items():
            pair = run["pair"].to_numpy(bool)
            right = np.where(p == 0.5, 0.5, ((p > 0.5) == (outcomes > 0.5)).astype(float))
            run = run.assign(
                **{
                    name: p,
                    f"brier_{name}": (p - outcomes) ** 2,
                    f"confidence_{name}": np.where(pair, np.maximum(p, 1 - p), p),
                    f"correct_{name}": np.where(np.isnan(p), np.nan, np.where(pair, right, outcomes)),
                }
            )
        parts.append(run)
    return pd.concat(parts, ignore_index=True)


def matrices(rows: pd.DataFrame, *values: str) -> tuple[Matrix, ...]:
    """(seeds, examples) of each of ``values``, on the examples that all seeds have."""
    wide = [rows.pivot_table(index="seed", columns="example", values=value, dropna=False) for value in values]
    whole = np.logical_and.reduce([table.notna().all(axis=0) for table in wide])
    return tuple(table.loc[:, whole].to_numpy(float) for table in wide)


def kinds(rows: pd.DataFrame) -> dict[tuple[Cell, bool], pd.DataFrame]:
    """The rows of each cell, pairs (True) and single completions apart."""
    found = {}
    for cell, part in cells(rows):
        for pair, group in part.groupby("pair"):
            found[cell, bool(pair)] = group
    return found
