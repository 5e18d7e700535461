"""Table: what the implied reward goes with beside quality: length and style, given the gold utility."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis import style, text
from analysis.calibration import Statistic, estimate_of, partial_correlation
from analysis.estimates import CELL, cells, rows_of, span, stream
from analysis.implied_rewards import TRUTHS
from analysis.registry import Entry, NoDataError, Sheet
from analysis.statistics import Matrix
from kto_bench.results import KEYS, Sweep

KNOWN = {*KEYS, "example", "split", "side", "desirable", "mislabelled", "declared", "reference_point", "reward"}
KNOWN |= {"log_prob", "reference_log_prob", *TRUTHS}
GOLD = "utility"


def features(table: pd.DataFrame) -> list[str]:
    """tokens, and the scores of the source that are no judgement of quality."""
    return ["tokens", *(str(column) for column in table if column not in KNOWN | {"tokens"})]


def correlations(sweep: Sweep) -> pd.DataFrame:
    """One row per cell and feature: raw and given (the gold utility held fixed; NaN where it is unknown), each with
    ``_low`` and ``_high``, seeds and prompts (labelled examples, whose completions are drawn together)."""
    table = sweep.implied_rewards
    if table.empty:
        raise NoDataError("no finished run recorded implied rewards (evaluation.implied_reward)")
    heldout = table[table["split"] == "heldout"]
    used = heldout if len(heldout) else table[~table["mislabelled"].astype(bool)]
    rows = []
    for cell, group in cells(used):
        for feature in features(table):
            row: dict[str, Any] = {**dict(zip(CELL, cell, strict=True)), "feature": feature}
            for name, gold in (("raw", None), ("given", GOLD)):
                found = _estimate(group, feature, gold, (name, feature, *cell))
                row |= dict(zip((name, f"{name}_low", f"{name}_high", "seeds", "prompts"), found, strict=True))
            rows.append(row)
    return pd.DataFrame(rows)


def _estimate(group: pd.DataFrame, feature: str, gold: str | None, stream_name: tuple[str, ...]) -> tuple[float, ...]:
    seeds, codes = group["seed"].nunique(), pd.factorize(group["example"])
    columns = ["reward", feature, *([] if gold is None else [gold])]
    missing = (np.nan, np.nan, np.nan, seeds, len(codes[1]))
    if any(column not in group for column in columns) or group[columns].isna().any(axis=None):
        return missing
    statistics: list[Statistic] = []
    for _, part in group.assign(unit=codes[0]).groupby("seed"):
        values = [part[column].to_numpy(float) for column in columns]
        third = values[2] if gold is not None else None
        statistics.append(partial(_of_units, values[0], values[1], third, part["unit"].to_numpy()))
    with np.errstate(invalid="ignore"):
        found = estimate_of(statistics, len(codes[1]), stream("reward correlation", *stream_name))
    return found.value, found.low, found.high, found.seeds, found.prompts


def _of_units(first: Matrix, second: Matrix, third: Matrix | None, units: Any, weights: Matrix) -> Matrix:
    return partial_correlation(first, second, third, weights[:, units])


def make(sweep: Sweep) -> Sheet:
    """One row per cell, one column per feature."""
    numbers = correlations(sweep)
    known = numbers["given"].notna().any()
    rows = []
    for _, group in cells(numbers):
        first = rows_of(group)[0]
        shown = {"Setting": first["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(first["start"]), "Loss": style.loss_name(first["method"])}
        for row in rows_of(group):
            name = "length" if row["feature"] == "tokens" else str(row["feature"]).replace("_", " ")
            shown[f"{name}, raw"] = text.with_interval(row, "raw", 2, sign=True)
            if known:
                shown[f"{name}, given utility"] = text.with_interval(row, "given", 2, sign=True)
        rows.append(shown)
    caption = (
        "Correlation of the implied reward with the length (tokens) and the style of labelled completions, per seed, "
        "mean over seeds, with 95% intervals over examples and seeds"
        + ("; given utility: with the gold utility held fixed (partial correlation). " if known else ". ")
        + "What remains then is a taste of the policy's that quality does not explain. "
        f"n = {span(numbers['prompts'], 'examples')} × {span(numbers['seeds'], 'seeds')}."
    )
    wide = numbers.pivot_table(
        index=CELL,
        columns="feature",
        values=["raw", "raw_low", "raw_high", "given", "given_low", "given_high"],
        sort=False,
    )
    wide.columns = ["_".join(map(str, reversed(column))) for column in wide.columns.to_list()]
    order = [cell for cell, _ in cells(numbers)]
    return Sheet(wide.loc[order].reset_index(), pd.DataFrame(rows), caption)


TABLE = Entry(order=64, title="What the implied reward goes with", make=make)
