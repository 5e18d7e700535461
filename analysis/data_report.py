"""What the runs were trained on: counts by class and source, lengths, cuts, advice on weights, and examples as the
policy sees them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from analysis import style
from analysis.registry import Drawing, Entry, NoDataError, Sheet
from kto_bench.results import Sweep

FILE = "data_report.json"
COLOURS = {"desirable": "#0072B2", "undesirable": "#D55E00", "demonstrated": "#009E73"}
LINES: dict[str, Any] = {"desirable": style.SOLID, "undesirable": style.DASHED, "demonstrated": style.SOLID}
MOST = 6
"""Different data of which lengths are drawn and examples shown; the table has all."""
TICKS = ((1, (1, 1.5, 2, 3, 5, 7)), (2, (1, 2, 5)), (np.inf, (1,)))
"""Of an axis that spans fewer decades than the first: the numbers that each decade has."""
ROW_HEIGHT = 1.45
"""Inches per data set in the figure."""
ROW_CHARACTERS = 20
"""Of a label that fit the height of a row."""


@dataclass(frozen=True)
class Data:
    """One set of tokens that runs of a sweep were trained on."""

    name: str
    runs: int
    report: dict[str, Any]
    feedback: dict[str, Any]
    """What is known of the rows: dropped, repetitions, part of it that was kept."""


def data_of(sweep: Sweep) -> list[Data]:
    """The different data of a sweep, in the order of its runs. Raises NoDataError where no run has told of any."""
    found: dict[str, tuple[Any, list[str], dict[str, Any]]] = {}
    for record in sweep.records:
        written = record.json(FILE) if record.state != "superseded" else {}
        rows = written.get("feedback", {}) | written.get("subsample", {})
        for key, what in (("tokens", ""), ("tokens/demonstrations", ", demonstrations for the SFT start")):
            if key in written:
                name = f"{record.labels['feedback']}, {record.labels['model']}{what}"
                same = json.dumps([name, written[key], rows], sort_keys=True)
                found.setdefault(same, (name, [], {"report": written[key], "feedback": rows}))[1].append(record.run)
    if not found:
        raise NoDataError("no run has come as far as its tokens")
    names = [name for name, _, _ in found.values()]
    return [
        Data(name if names.count(name) == 1 else f"{name} [{runs[0]}]", len(runs), **parts)
        for name, runs, parts in found.values()
    ]


def draw(sweep: Sweep) -> Drawing:
    """A row per data set: lengths of completions by class, and of prompts, before anything was cut."""
    sets = data_of(sweep)
    shown = sets[:MOST]
    with style.settings():
        abreast = style.fitting(2, 1)
        lines = 2 * len(shown) // abreast
        figure = style.figure(height=(ROW_HEIGHT if abreast == 2 else 1.3 * ROW_HEIGHT) * lines + 0.7)
        axes = figure.subplots(lines, abreast, squeeze=False).reshape(len(shown), 2)
        for (completions, prompts), data in zip(axes, shown, strict=True):
            for name, part in data.report["classes"].items():
                _steps(completions, part, COLOURS[name], LINES[name], f"{name} (n = {part['n']:,})")
            _steps(prompts, data.report["prompts"], "#6b6b6b", style.SOLID, f"n = {data.report['prompts']['n']:,}")
            completions.set_ylabel("\n".join(wrap(data.name, ROW_CHARACTERS)[:4]), fontweight="bold")
            for axis in (completions, prompts):
                axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
        for completions, prompts in axes[-1:] if abreast == 2 else axes:
            completions.set_xlabel("tokens of a completion")
            prompts.set_xlabel("tokens of a prompt")
    texts = f"{sum(data.report['completions'] + data.report['prompts']['n'] for data in shown):,}"
    left = f" The first {MOST} of {len(sets)} data sets are drawn." if len(sets) > MOST else ""
    return Drawing(
        figure,
        "Lengths in tokens, before truncation, of the completions of each class and of the distinct prompts: density "
        f"over the logarithm of the length, so that equal areas are equal shares; n = {texts} texts in all.{left}",
    )


def _steps(axis: Axes, part: dict[str, Any], colour: str, line: Any, label: str) -> None:
    edges, counts = (np.array(part["histogram"][name]) for name in ("edges", "counts"))
    if len(counts):
        # Edges are whole numbers, so short lengths have bins of uneven ratio.
        density = counts / counts.sum() / np.diff(np.log(edges))
        axis.stairs(density, edges, color=colour, linestyle=line, label=label, linewidth=1.2)
        axis.set_xscale("log")
        decades = np.log10(edges[-1] / edges[0])
        axis.xaxis.set_major_locator(LogLocator(subs=next(subs for most, subs in TICKS if decades < most)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(bottom=0)


def make(sweep: Sweep) -> Sheet:
    """A row per data set, class and source; what concerns the data set as a whole is in the first of its rows."""
    numbers, shown = [], []
    for data in data_of(sweep):
        whole = _whole(data)
        for name, part in data.report["classes"].items():
            for source, count in (part["sources"] or {"": 0}).items():
                lengths = part["lengths"]
                numbers.append(
                    {
                        "data": data.name, "runs": data.runs, "class": name, "source": source, "n": count,
                        "class_n": part["n"], **{f"tokens_{key}": value for key, value in lengths.items()},
                        "truncated": part["truncated"], **whole,
                    }
                )  # fmt: skip
                shown.append(
                    {
                        "Data": f"{data.name} ({data.runs} runs)",
                        "Class": name,
                        "Source": source or "all",
                        "n": f"{count:,}",
                        "Tokens (median, 95%, most)": f"{lengths['median']:g}, {lengths['p95']:g}, {lengths['max']:,}",
                        "Cut": f"{part['truncated']:,}",
                        "Prompts (cut)": f"{whole['prompts']:,} ({whole['prompts_truncated']:,})",
                        "Duplicates": f"{whole['duplicates']:,}",
                        "Contradictions": f"{whole['contradictions']:,}",
                        "Left out": whole["dropped"] or "none",
                        "Advice on weights": whole["weights"] or "one class",
                    }
                )
    caption = (
        "What was trained on, by class and source. Tokens and cuts are of the whole class; lengths are before "
        "truncation, end token included. Left out: rows that could not be used, by reason. Duplicates and "
        "contradictions are among the rows before a part of them was taken. Advice: weights of KTO and its relatives."
    )
    return Sheet(pd.DataFrame(numbers), pd.DataFrame(shown), caption)


def _whole(data: Data) -> dict[str, Any]:
    repeated = data.feedback.get("repetitions", {})
    dropped = data.feedback.get("dropped", {})
    return {
        "prompts": data.report["prompts"]["n"],
        "prompts_truncated": data.report["prompts"]["truncated"],
        **{name: repeated.get(name, {}).get("count", 0) for name in ("duplicates", "contradictions")},
        "dropped": "; ".join(f"{count:,} × {reason}" for reason, count in dropped.items()),
        "weights": (data.report["weights"] or {}).get("advice", ""),
    }


def examples(sweep: Sweep) -> list[dict[str, Any]]:
    """Each data set's name with its examples, for the page."""
    try:
        sets = data_of(sweep)
    except NoDataError:
        return []
    return [{"data": data.name, "examples": data.report["examples"]} for data in sets[:MOST]]


FIGURE = Entry(order=70, title="Lengths of what was trained on", make=draw)
TABLE = Entry(order=70, title="Data", make=make)
