"""Scores of a paper's table and of own runs as rows of the same columns, and as a table with a column per task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis import benchmarks, style, text
from analysis.estimates import CELL, cells, rows_of, span
from analysis.evidence import OWN, PUBLISHED, Evidence, grouped, method_name
from analysis.question_sets import pooled
from analysis.registry import Sheet
from analysis.statistics import wilson

MARKS = {"primary": "", "derived": "", "secondary": "†", "unverified": "?"}
COLUMNS = [
    *("origin", "model", "name", "start", "loss", "one_completion_per_prompt", "variant", "temperature"),
    *("task", "task_name", "scale", "value", "low", "high", "n", "n_note", "seeds", "judge", "trust", "source"),
]
TEMPERATURE = "evaluation.generation.temperature"
QUESTION_SETS = {
    ("AlpacaEval 2", "win rate"): ("alpaca_eval_2", "AlpacaEval 2, win rate"),
    ("AlpacaEval 2", "length-controlled win rate"): ("alpaca_eval_2_lc", "AlpacaEval 2, length-controlled"),
    ("Arena-Hard", "score"): ("arena_hard", "Arena-Hard, win rate"),
    ("MT-Bench", "rating"): ("mt_bench", "MT-Bench"),
}
"""Tasks of published studies that are statistics of a set of questions."""


def published(evidence: Evidence, experiment: str) -> pd.DataFrame:
    """Rows of the study. Intervals are Wilson's, of the score as a share of its scale: those of yes/no answers, and for
    graded answers the widest that this mean can have. Missing where n is unknown."""
    rows = []
    for row in rows_of(evidence.scores(experiment)):
        share, n = row["value"] / row["scale"], row["n"]
        low, high = (np.nan, np.nan) if pd.isna(n) else wilson(share * n, n)
        more = {"origin": PUBLISHED, "variant": "", "seeds": 1, "low": low * row["scale"], "high": high * row["scale"]}
        rows.append({**row, **more})
    return pd.DataFrame(rows, columns=COLUMNS)


def own(evidence: Evidence, tasks: dict[str, str] | None = None) -> pd.DataFrame:
    """Own win rates, benchmarks and sets of questions, in percent or on their scale. ``tasks`` are names of tasks that
    a paper has; other tasks are called what they are."""
    judged = {row["cell"]: row for row in rows_of(evidence.own)}
    if evidence.sweep is None or not judged:
        return pd.DataFrame(columns=COLUMNS)
    rows: list[dict[str, Any]] = []
    settings = evidence.sweep.settings([TEMPERATURE])
    temperatures = {cell: part[TEMPERATURE].iloc[0] for cell, part in cells(settings)}

    def add(cell: Any, task: str, name: str, scale: float, judge: str, **numbers: Any) -> None:
        if cell not in judged:
            return
        about = {key: judged[cell][key] for key in COLUMNS if key in judged[cell]}
        about |= {
            "temperature": temperatures[cell],
            "task": task,
            "task_name": (tasks or {}).get(task, name),
            "scale": scale,
            "judge": judge,
        }
        rows.append({**about, "n_note": "prompts or documents", **numbers})

    for cell, row in judged.items():
        scaled = {key: 100 * row[key] for key in ("value", "low", "high")}
        add(cell, "win_rate", "win rate", 100, row["judge"], **scaled, n=row["n"], seeds=row["seeds"])
    scores = benchmarks.scores(evidence.sweep) if len(evidence.sweep.benchmarks) else {}
    for title, estimated in scores.items():
        task = title.rpartition(" (")[0]
        factor = 100.0 if (estimated["value"].abs() <= 1).all() else 1.0
        for row in rows_of(estimated):
            scaled = {key: factor * row[key] for key in ("value", "low", "high")}
            add(
                tuple(row[key] for key in CELL), task, title, factor, "", **scaled, n=row["prompts"], seeds=row["seeds"]
            )
    for (title, name), of_name in grouped(evidence.sweep.question_sets.dropna(subset=["value"]), ["set", "name"]):
        task, shown = QUESTION_SETS.get((title, name), (f"{title} {name}", f"{title}, {name}"))
        for cell, part in cells(of_name):
            factor = float(part["scale"].iloc[0])
            found = dict(pooled("value", part))
            scaled = {key: factor * found[f"value_{key}".removesuffix("_value")] for key in ("value", "low", "high")}
            add(cell, task, shown, factor, judged.get(cell, {}).get("judge", ""), **scaled, n=np.nan, seeds=len(part))
    return pd.DataFrame(rows, columns=COLUMNS)


def together(*parts: pd.DataFrame) -> pd.DataFrame:
    """The rows of all parts that have any."""
    return pd.concat([part.astype(object) for part in parts if len(part)], ignore_index=True).infer_objects()


def sheet(
    rows: pd.DataFrame,
    caption: str,
    mean_of: tuple[str, ...] = (),
    group: Callable[[dict[str, Any]], str] | None = None,
) -> Sheet:
    """A line per origin, model and method, a column per task. ``mean_of`` are tasks whose mean is a column as well;
    ``group`` puts another column before all."""
    tasks = list(dict.fromkeys(rows["task"]))
    titles = {row["task"]: row["task_name"] for row in rows_of(rows)}
    keys = ["origin", "name", "start", "loss", "one_completion_per_prompt", "variant"]
    lines, shown = [], []
    order = {key: index for index, key in enumerate(dict.fromkeys(zip(rows["origin"], rows["name"], strict=True)))}
    parts = sorted(
        grouped(rows, keys),
        key=lambda item: (order[item[0][:2]], style.start_order(item[0][2]), style.loss_order(item[0][3]), item[0][4:]),
    )
    several_starts = rows["start"].nunique() > 1
    for key, part in parts:
        by_task = {row["task"]: row for row in rows_of(part)}
        line: dict[str, Any] = dict(zip(keys, key, strict=True))
        method = f"{method_name(line['loss'], bool(line['one_completion_per_prompt']))} {line['variant']}".strip()
        display = {"Group": group(line)} if group else {}
        display |= {"Model": str(line["name"])} if rows["name"].nunique() > 1 else {}
        display |= {"Start": style.start_name(line["start"])} if several_starts else {}
        display |= {"Method": method, "From": str(line["origin"])}
        for task in tasks:
            row = by_task.get(task)
            line |= {f"{task}{end}": row[key] if row else np.nan for end, key in _ENDS.items()}
            display[titles[task]] = cell(row)
        if mean_of:
            values = [by_task[task]["value"] if task in by_task else np.nan for task in mean_of]
            line["mean"] = float(np.mean(values))
            unsure = any(task in by_task and by_task[task]["trust"] == "unverified" for task in mean_of)
            display["Mean"] = text.number(line["mean"], 1) + ("?" if unsure and not np.isnan(line["mean"]) else "")
        lines.append(line)
        shown.append(display)
    return Sheet(pd.DataFrame(lines), pd.DataFrame(shown), caption)


_ENDS = {"": "value", "_low": "low", "_high": "high", "_n": "n", "_trust": "trust", "_source": "source"}


def cell(row: dict[str, Any] | None) -> str:
    """A score with its interval, where n is known, and the mark of how far it can be trusted."""
    if row is None or pd.isna(row["value"]):
        return text.MISSING
    digits = 1 if row["scale"] == 100 else 2
    if pd.isna(row["low"]):
        return text.number(row["value"], digits) + MARKS[row["trust"]]
    return f"{text.number(row['value'], digits)}{MARKS[row['trust']]} " + (
        f"[{text.number(row['low'], digits)}, {text.number(row['high'], digits)}]"
    )


def score_note(rows: pd.DataFrame) -> str:
    """n, judge, source and kind of interval of scores, for a caption."""
    notes = []
    part = rows[rows["origin"] == PUBLISHED]
    if len(part):
        sizes = part.dropna(subset=["n"]).drop_duplicates("task")
        n = "; ".join(f"{row['n']:,.0f} of {row['task_name']}" for row in rows_of(sizes))
        judges = " and ".join(sorted({judge for judge in part["judge"] if judge}))
        sources = "; ".join(sorted({str(source).partition(" (")[0] for source in part["source"]}))
        notes.append(
            f"Published: {sources}{f'; judge {judges}' if judges else ''}, one seed unless the source says otherwise. "
            f"Their 95% intervals are ours: Wilson's for the {part['n_note'].iloc[0]} (n = {n}), of questions only; "
            "the papers print none here, and for graded or length-controlled scores they are a rough guide."
        )
        marks = {"secondary": "† from a later text that copies the table", "unverified": "? from memory, unverified"}
        notes += [f"{words}." for trust, words in marks.items() if (part["trust"] == trust).any()]
    mine = rows[rows["origin"] == OWN]
    if len(mine):
        judges = " and ".join(sorted({judge for judge in mine["judge"] if judge}))
        counts = mine["n"].dropna()
        n = f"n = {span(counts, 'prompts')} or documents" if len(counts) else "n as in the table of sets of questions"
        notes.append(
            f"Own runs: judge {judges}, {n} × "
            f"{span(mine['seeds'], 'seeds')}; 95% intervals of both (of prompts only where there is one seed)."
        )
    return " ".join(notes)
