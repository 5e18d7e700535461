"""Figure: scores of intermediate policies against what was spent on them: KL from the start, updates, completions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import style
from analysis.estimates import cells, estimates, interval_note, sample_size
from analysis.registry import Drawing, Entry, NoDataError
from kto_bench.results import Sweep

ROW_HEIGHT = 2.3
"""Inches per setting and score."""
ROW_CHARACTERS = 24
"""Characters of a label that fit the height of a row."""
RATING = "rating"
"""What MT-Bench's judge says of an answer."""
AXES = {"kl": "KL from the start (nats)", "step": "updates", "completions": "completions seen"}


@dataclass(frozen=True)
class _Score:
    title: str
    table: pd.DataFrame
    """Rows with the columns of a cell, step, completions, ``unit`` and ``value``."""
    unit: str
    is_share: bool = True
    """Whether values are in [0, 1], and shown in per cent."""


def points(sweep: Sweep, score: pd.DataFrame, value: str, unit: str, bounded: bool = True) -> pd.DataFrame:
    """One row per cell and step: ``estimates`` of ``value`` with step, completions and kl (mean over runs and
    prompts; NaN where it was not measured)."""
    parts = []
    for step, rows in score.groupby("step"):
        found = estimates(rows, value, unit, bounded=bounded)
        spent = {cell: part["completions"].mean() for cell, part in cells(rows)}
        reached = {cell: part["kl"].mean() for cell, part in cells(_at(sweep.over_training, step))}
        keys = list(found[["setting", "start", "method"]].itertuples(index=False, name=None))
        parts.append(
            found.assign(
                step=step, completions=[spent[key] for key in keys], kl=[reached.get(key, float("nan")) for key in keys]
            )
        )
    return pd.concat(parts, ignore_index=True)


def _at(table: pd.DataFrame, step: Any) -> pd.DataFrame:
    return table[table["step"] == step].astype({"kl": float})


def _scores(sweep: Sweep) -> Iterator[_Score]:
    judged = sweep.over_training.dropna(subset=["preference"])
    if len(judged):
        yield _Score("Win rate (%)", judged.rename(columns={"preference": "value"}), "prompt_id")
    if RATING in sweep.over_training:  # graded by itself, as MT-Bench's answers are
        rated = sweep.over_training.dropna(subset=[RATING])
        yield _Score("Rating (1 to 10)", rated.rename(columns={RATING: "value"}), "prompt_id", is_share=False)
    answers = _shares(sweep.benchmarks_over_training)
    if len(answers):
        unit = answers["task"] + ":" + answers["metric"] + ":" + answers["doc_id"].astype(str)
        yield _Score("Benchmarks (%)", answers.assign(unit=unit), "unit")


def _shares(answers: pd.DataFrame) -> pd.DataFrame:
    """The first metric of each task, of the tasks where that is a share of right answers."""
    first = answers.groupby("task")["metric"].transform("first") == answers["metric"]
    within = answers.groupby("task")["value"].transform(lambda values: values.between(0, 1).all()).astype(bool)
    return answers[first & within]


def draw(sweep: Sweep) -> Drawing:
    """Rows: scores and settings; columns: the three axes. A column that no run has is left out."""
    scores = {
        score.title: points(sweep, score.table, "value", score.unit, score.is_share).assign(
            scale=100.0 if score.is_share else 1.0
        )
        for score in _scores(sweep)
    }
    if not scores:
        raise NoDataError("no finished run was evaluated over its training (evaluation.at_steps)")
    panels = [
        (title, str(setting), rows) for title, table in scores.items() for setting, rows in table.groupby("setting")
    ]
    columns = [axis for axis in AXES if any(rows[axis].notna().any() for _, _, rows in panels)]
    with style.settings():
        abreast = style.fitting(len(columns), 1)
        lines = len(panels) * len(columns) // abreast
        figure = style.figure(height=ROW_HEIGHT * style.fitting(1, 0.8) * lines + 0.6)
        axes = figure.subplots(lines, abreast, squeeze=False, sharey="row").reshape(len(panels), len(columns))
        for line, (title, setting, rows) in zip(axes, panels, strict=True):
            for axis, column in zip(line, columns, strict=True):
                _panel(axis, rows.dropna(subset=[column]), column)
                axis.set_xlabel(AXES[column])
            for axis in line[:: style.fitting(len(columns), 1)]:
                axis.set_ylabel("\n".join([title, *wrap(style.short(setting), ROW_CHARACTERS)]))
        style.legend(figure, _legend([rows for _, _, rows in panels]))
    first = next(iter(scores.values()))
    caption = (
        "Scores of the policy at steps of its alignment, by loss (colour) and start (line style). KL: of the policy "
        "from its start, summed over the tokens of the policy's own completions, each token's exactly, mean over "
        f"prompts and seeds. Points of one line are the same runs on the same prompts. {interval_note(first)} "
        f"{sample_size(first)}, {span_of(first)}."
    )
    return Drawing(figure, caption)


def span_of(rows: pd.DataFrame) -> str:
    """How many steps were evaluated."""
    count = rows["step"].nunique()
    return f"{count} step{'s' if count != 1 else ''}"


def _panel(axis: Axes, rows: pd.DataFrame, column: str) -> None:
    for (_, start, method), part in cells(rows):
        line = part.sort_values("step")
        scale = line["scale"]
        middle = scale * line["value"]
        axis.errorbar(
            line[column], middle, yerr=[middle - scale * line["low"], scale * line["high"] - middle],
            color=style.colour(method), linestyle=style.line(start), marker="o", markersize=3, linewidth=1.2,
            elinewidth=0.7, capsize=1.5,
        )  # fmt: skip
    axis.locator_params(axis="x", nbins=5)


def _legend(tables: list[pd.DataFrame]) -> list[Line2D]:
    rows = pd.concat(tables)
    methods = sorted(rows["method"].unique(), key=style.loss_order)
    starts = sorted(rows["start"].unique(), key=style.start_order)
    lines = [Line2D([], [], color=style.colour(one), marker="o", label=style.loss_name(one)) for one in methods]
    return lines + [
        Line2D([], [], color="#333333", linestyle=style.line(one), label=f"from {style.start_name(one)}")
        for one in starts
    ]


FIGURE = Entry(order=45, title="Scores over training", make=draw)
