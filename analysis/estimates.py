"""From tidy tables to tables of estimates and paired differences, per cell (setting, start, method).

What is random draws from a stream named after what it is for, so it is the same in every figure, table and rebuild,
whatever else the sweep holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics, style
from kto_bench.seeds import derive

CELL = ["setting", "start", "method"]
Cell = tuple[str, str, str]


def cells(table: pd.DataFrame) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """The rows of each cell, in natural order: by setting, start, then loss."""
    groups = {(str(key[0]), str(key[1]), str(key[2])): rows for key, rows in table.groupby(CELL, sort=False)}
    for key in sorted(groups, key=cell_order):
        yield key, groups[key]


def cell_order(cell: Cell) -> tuple[Any, ...]:
    """Sort key of a cell."""
    setting, start, method = cell
    return setting, style.start_order(start), style.loss_order(method)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """A table with one row per run, sorted naturally: by setting, start, loss and seed."""
    keys = [(cell_order((row["setting"], row["start"], row["method"])), row["seed"]) for row in rows_of(runs)]
    return runs.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def matrix(rows: pd.DataFrame, value: str, unit: str) -> pd.DataFrame:
    """``value`` by seed (rows) and ``unit`` (columns: prompts or documents), sorted; NaN where missing, the mean where
    there are several. Many times as fast as ``pivot_table``, and a report makes thousands."""
    known = rows[rows[value].notna()]
    seed, seeds = pd.factorize(known["seed"], sort=True)
    column, columns = pd.factorize(known[unit], sort=True)
    shape = (len(seeds), len(columns))
    cell, size = seed * shape[1] + column, shape[0] * shape[1]
    count = np.bincount(cell, minlength=size).astype(float)
    total = np.bincount(cell, weights=known[value].to_numpy(dtype=float), minlength=size)
    means = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return pd.DataFrame(means.reshape(shape), index=pd.Index(seeds, name="seed"), columns=pd.Index(columns, name=unit))


def estimates(table: pd.DataFrame, value: str, unit: str = "prompt_id", bounded: bool = False) -> pd.DataFrame:
    """One row per cell: value, low, high, seeds, prompts, method of the interval, and ``by_seed``, the mean per
    seed."""
    rows = []
    for cell, group in cells(table.dropna(subset=[value])):
        outcomes = matrix(group, value, unit)
        result = statistics.estimate(outcomes.to_numpy(), bounded=bounded)
        numbers = asdict(result) | {"interval": result.method}
        by_seed = outcomes.mean(axis=1).tolist()
        rows.append({**numbers, **dict(zip(CELL, cell, strict=True)), "by_seed": by_seed})
    columns = [*CELL, "value", "low", "high", "seeds", "prompts", "interval", "by_seed"]
    return pd.DataFrame(rows, columns=columns)


def differences(
    table: pd.DataFrame, value: str, pairs: Iterable[tuple[Cell, Cell]], unit: str = "prompt_id"
) -> pd.DataFrame:
    """One row per pair of cells (first minus second) on the seeds and prompts that both have.

    Columns: first, second, value, low, high, p_value, seeds, prompts, p_holm, adjusted for all rows returned, and
    ``outcomes``, the differences themselves: (seeds, prompts), NaN where one of the two is missing.
    Pairs without a seed and a prompt in common are left out.
    """
    matrices = {cell: matrix(group, value, unit) for cell, group in cells(table.dropna(subset=[value]))}
    rows = []
    for first, second in pairs:
        if first not in matrices or second not in matrices:
            continue
        left, right = matrices[first].align(matrices[second], join="inner")
        if (left.notna() & right.notna()).to_numpy().any():
            result = statistics.paired_difference(left.to_numpy(), right.to_numpy())
            outcomes = (left - right).to_numpy()
            rows.append({"first": first, "second": second, **asdict(result), "outcomes": outcomes})
    columns = ["first", "second", "value", "low", "high", "p_value", "seeds", "prompts", "outcomes"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_holm=statistics.holm(frame["p_value"].to_numpy(dtype=float)))


def stream(*names: str) -> np.random.Generator:
    """The generator of the stream called ``names``; the same in every figure, table and rebuild."""
    return np.random.default_rng(derive(0, "analysis", *names))


def sample_size(frame: pd.DataFrame, unit: str = "prompts") -> str:
    """How many seeds and prompts the rows of ``estimates`` or ``differences`` rest on, for a caption."""
    return f"n = {span(frame['prompts'], unit)} × {span(frame['seeds'], 'seeds')}"


def interval_note(frame: pd.DataFrame, unit: str = "prompts") -> str:
    """What the intervals of ``estimates`` capture, for a caption."""
    notes = []
    if (frame["seeds"] > 1).any():
        notes.append(f"Bars: 95% intervals that capture the draw of {unit} and of training seeds.")
    if (frame["seeds"] == 1).any():
        kind = "Wilson " if (frame.loc[frame["seeds"] == 1, "interval"] == "wilson").all() else ""
        notes.append(
            f"With one seed, 95% {kind}intervals capture the draw of {unit} only: another seed may differ by more."
        )
    if (frame["seeds"] == 2).any():
        notes.append("Two seeds say little about a third: where they differ, these intervals are very wide.")
    return " ".join(notes)


def span(values: pd.Series, noun: str) -> str:
    """ "3 seeds", "1 seed" or "2–3 seeds"."""
    low, high = int(values.min()), int(values.max())
    return f"{low}–{high} {noun}" if low != high else f"{low} {noun if low != 1 else noun.removesuffix('s')}"
