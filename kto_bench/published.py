"""Numbers from papers as tidy tables: a published study is a folder ``results/published/<study>/`` of small files.

``study.json`` says what the study is; ``judged.csv`` has one row per judged run (counts of wins), ``scores.csv`` one
per number of a table or figure. A study has at least one of the two. Reading is strict: a column that is missing or
unknown, a number that is none or out of range, and a row without a source, n or judge are errors that name file, line
and column.

Losses, starts, models and tasks have the names that they have in the suite, so that own runs can be laid over them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kto_bench.results import RecordError

FOLDER = "published"
TRUST = ("primary", "secondary", "derived", "unverified")
"""Where a number was read: in the source itself, in a later text that copies it, worked out or read off a plot from the
source, or from memory."""

Check = Callable[[str], Any]


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _number(low: float, high: float = float("inf"), open_below: bool = False) -> Check:
    def check(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError("must be a number") from None
        if not low <= number <= high or (open_below and number == low):
            raise ValueError(f"must be a number {'above' if open_below else 'from'} {low:g}, at most {high:g}")
        return number

    return check


def _whole(value: str) -> float:
    number = _number(0)(value)
    if not float(number).is_integer():
        raise ValueError("must be a whole number")
    return float(number)


def _one_of(*allowed: str) -> Check:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return check


def _truth(value: str) -> bool:
    return _one_of("true", "false")(value) == "true"


def _or(check: Check, missing: Any) -> Check:
    """An empty cell is ``missing``."""
    return lambda value: missing if not value.strip() else check(value)


NONE = float("nan")
SIZE, SHARE = _number(0, open_below=True), _number(0, 1, open_below=True)
JUDGED: dict[str, Check] = {
    "experiment": _text, "model": _or(_text, ""), "name": _text, "family": _text, "parameters": SIZE, "start": _text,
    "loss": _text, "one_completion_per_prompt": _truth, "keep_desirable": SHARE, "keep_undesirable": SHARE,
    "desirable_weight": _or(_number(0), NONE), "undesirable_weight": _or(_number(0), NONE), "beta": _or(SIZE, NONE),
    "learning_rate": _or(SIZE, NONE), "optimizer": _or(_text, ""), "batch_size": _or(_whole, NONE),
    "n": SIZE, "wins": _whole, "losses": _or(_whole, NONE), "mean_tokens": _or(SIZE, NONE),
    "median_tokens": _or(SIZE, NONE), "max_tokens": _or(SIZE, NONE), "target_median_tokens": _or(SIZE, NONE),
    "judge": _text, "date": _or(_text, ""), "trust": _one_of(*TRUST), "source": _text,
}  # fmt: skip
"""Columns of judged.csv. ``model`` is the suite's name of the checkpoint (empty where it has none), ``name`` the
paper's; ``keep_*`` are fractions of a class that were trained on; ``n`` are prompts, ``wins`` those that were won."""
SCORES: dict[str, Check] = {
    "experiment": _text, "model": _or(_text, ""), "name": _text, "start": _text, "loss": _text,
    "one_completion_per_prompt": _truth, "desirable_weight": _or(_number(0), NONE),
    "undesirable_weight": _or(_number(0), NONE), "beta": _or(SIZE, NONE), "learning_rate": _or(SIZE, NONE),
    "temperature": _or(_number(0), NONE), "task": _text, "task_name": _text, "scale": SIZE, "n": _or(SIZE, NONE),
    "n_note": _text, "value": _number(0), "judge": _or(_text, ""), "trust": _one_of(*TRUST), "source": _text,
}  # fmt: skip
"""Columns of scores.csv. ``value`` is out of ``scale``; ``n`` are documents or questions, and ``n_note`` says how n is
known; ``judge`` is empty where a benchmark needs none."""
TABLES = {"judged": JUDGED, "scores": SCORES}


@dataclass(frozen=True)
class Published:
    """One published study. ``judged`` and ``scores`` have the columns of JUDGED and SCORES; no rows where there are
    none."""

    name: str
    folder: Path
    title: str
    citation: str
    caveats: list[str]
    value_functions: list[str]
    """Losses whose value functions the paper draws, as ``kto-bench-report halo --loss`` takes them."""
    judged: pd.DataFrame
    scores: pd.DataFrame

    @classmethod
    def load(cls, name: str, results: str | Path = "results") -> Published:
        """Read ``results/published/<name>``. Raises RecordError naming what exists, or file, line and column."""
        root = Path(results) / FOLDER
        if name not in available(results):
            studies = ", ".join(available(results)) or "none"
            raise RecordError(
                f"published study {name!r} does not exist in {root}; studies that exist there: {studies}. "
                "Name one of them, or add a folder with study.json (docs/published.md)."
            )
        folder = root / name
        about = _about(folder / "study.json")
        tables = {table: _read(folder / f"{table}.csv", columns) for table, columns in TABLES.items()}
        if all(table.empty for table in tables.values()):
            raise RecordError(f"{folder}: a published study needs rows in {' or '.join(f'{t}.csv' for t in TABLES)}")
        return cls(name=name, folder=folder, judged=tables["judged"], scores=tables["scores"], **about)


def available(results: str | Path = "results") -> list[str]:
    """Names of the published studies under ``results``."""
    root = Path(results) / FOLDER
    return sorted(path.parent.name for path in root.glob("*/study.json"))


def _about(path: Path) -> dict[str, Any]:
    kinds = {"title": str, "citation": str, "caveats": list, "value_functions": list}
    try:
        about = json.loads(path.read_bytes())
    except ValueError as error:
        raise RecordError(f"{path}: is not JSON ({error})") from error
    if not isinstance(about, dict) or set(about) != set(kinds):
        raise RecordError(f"{path}: must be an object with exactly the fields {', '.join(kinds)}")
    for key, kind in kinds.items():
        texts = about[key] if kind is list else [about[key]]
        if not isinstance(about[key], kind) or not all(isinstance(each, str) for each in texts):
            raise RecordError(f"{path}: {key} must be {'a list of texts' if kind is list else 'a text'}")
    return about


def _read(path: Path, columns: dict[str, Check]) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise RecordError(f"{path}: cannot be read as CSV ({str(error).strip()})") from error
    missing, unknown = [c for c in columns if c not in table], [str(c) for c in table if c not in columns]
    if missing or unknown:
        wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise RecordError(f"{path}: {' and '.join(wrong)}; its columns must be {', '.join(columns)}")
    rows = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        checked = {}
        for column, check in columns.items():
            try:
                checked[column] = check(str(row[column]))
            except ValueError as error:
                raise RecordError(f"{path}, line {line}: {column} {error}, got {row[column]!r}") from None
        _consistent(path, line, checked)
        rows.append(checked)
    return pd.DataFrame(rows, columns=list(columns))


def _consistent(path: Path, line: int, row: dict[str, Any]) -> None:
    if "wins" in row and row["wins"] + (0 if pd.isna(row["losses"]) else row["losses"]) > row["n"]:
        raise RecordError(f"{path}, line {line}: wins and losses must not be more than n = {row['n']:g}")
    if "value" in row and row["value"] > row["scale"]:
        raise RecordError(f"{path}, line {line}: value {row['value']:g} must not be more than scale {row['scale']:g}")
