"""Table: what each loss has learnt of right and of wrong labels that it was trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import statistics, style, text
from analysis.estimates import CELL, cells, estimates, matrix, rows_of, span, stream
from analysis.implied_rewards import examples
from analysis.registry import Entry, NoDataError, Sheet
from kto_bench.results import Sweep

GROUPS = {
    "as_given": "Labels as given",
    "turned": "Turned by label noise",
    "with_gold": "With the gold utility",
    "against_gold": "Against the gold utility",
}
"""Rows that were trained on: those that label noise left alone, those that it turned, and of the former the pairs whose
label agrees with the gold utility, or does not (an annotator's mistakes)."""


def learnt(sweep: Sweep) -> pd.DataFrame:
    """One row per cell: for each of GROUPS the share of examples whose margin sides with the label that was trained on,
    with ``_low``, ``_high`` and ``_n``; and ``excess``, turned less as given, with its interval.

    Runs whose loss was trained are in it alone. ``excess`` is resampled over seeds and, apart, over either group.
    """
    trained = examples(sweep).query("split == 'train' and loss != 'none'")
    if trained.empty:
        raise NoDataError("no finished run has implied rewards of rows that its loss was trained on")
    clean = trained[~trained["mislabelled"].astype(bool)]
    groups = {
        "as_given": clean,
        "turned": trained[trained["mislabelled"].astype(bool)],
        "with_gold": clean[clean["against_gold"].eq(False)],
        "against_gold": clean[clean["against_gold"].eq(True)],
    }
    tables = {}
    for name, rows in groups.items():
        found = estimates(rows, "right", unit="example", bounded=True).set_index(CELL)
        tables[name] = found.rename(
            columns={"value": name, "low": f"{name}_low", "high": f"{name}_high", "prompts": f"{name}_n"}
        )[[name, f"{name}_low", f"{name}_high", f"{name}_n"]]
    numbers = tables["as_given"].join([tables[name] for name in GROUPS if name != "as_given"], how="outer")
    seeds = {cell: group["seed"].nunique() for cell, group in cells(trained)}
    numbers = numbers.reindex(list(seeds)).reset_index().assign(seeds=list(seeds.values()))
    excess = [_excess(groups["turned"], groups["as_given"], cell) for cell in seeds]
    return numbers.assign(
        **{name: [one[i] for one in excess] for i, name in enumerate(("excess", "excess_low", "excess_high"))}
    )


def _excess(turned: pd.DataFrame, clean: pd.DataFrame, cell: tuple[str, str, str]) -> tuple[float, float, float]:
    parts = {name: dict(cells(rows)).get(cell) for name, rows in (("turned", turned), ("clean", clean))}
    tables = [matrix(part, "right", "example") for part in parts.values() if part is not None]
    if len(tables) < len(parts):
        return float("nan"), float("nan"), float("nan")
    first, second = tables
    seeds = first.index.intersection(second.index)
    first, second = first.loc[seeds], second.loc[seeds]
    rng = stream("mislabelled excess", *cell)
    drawn = rng.multinomial(max(len(seeds) - 1, 1), np.full(len(seeds), 1 / len(seeds)), size=statistics.REPLICATES)
    means = []
    for table in (first, second):
        values, n = np.nan_to_num(table.to_numpy(float)), table.shape[1]
        weights = rng.multinomial(n, np.full(n, 1 / n), size=statistics.REPLICATES)
        means.append((drawn * (weights @ values.T) / n).sum(axis=1) / drawn.sum(axis=1))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return float(first.to_numpy().mean() - second.to_numpy().mean()), float(low), float(high)


def make(sweep: Sweep) -> Sheet:
    """One row per cell."""
    numbers = learnt(sweep)
    shown_groups = [name for name in GROUPS if numbers[name].notna().any()]
    rows = []
    for row in rows_of(numbers):
        shown = {"Setting": row["setting"]} if numbers["setting"].any() else {}
        shown |= {"Start": style.start_name(row["start"]), "Loss": style.loss_name(row["method"])}
        for name in shown_groups:
            shown[f"{GROUPS[name]} (%)"] = text.with_interval(row, name, 1, 100)
        if "turned" in shown_groups:
            shown["Turned less as given"] = text.with_interval(row, "excess", 1, 100, sign=True)
        rows.append(shown)
    sizes = "; ".join(
        f"{GROUPS[name].lower()}: n = {span(numbers[f'{name}_n'].dropna(), 'examples')}" for name in shown_groups
    )
    caption = (
        "Share of the examples that were trained on whose implied reward sides with the label that was trained on, "
        "with 95% intervals. Of wrong labels that is how much was learnt: one that memorises has the same share in all "
        "columns; one that learns nothing of a wrong label sides with it as often as it would be wrong otherwise. "
        f"{sizes}; {span(numbers['seeds'], 'seeds')}."
    )
    return Sheet(numbers, pd.DataFrame(rows), caption)


TABLE = Entry(order=62, title="What is learnt of wrong labels", make=make)
