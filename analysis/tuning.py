"""Figure: what tuning was worth, the expected best validation score against the number of trials, by loss."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.estimates import Cell, stream
from analysis.registry import Drawing, Entry, NoDataError
from analysis.statistics import BestOfTrials, best_of_trials
from analysis.trials import Trials, decided, trials_of
from kto_bench.results import Sweep

COLUMNS = 3
PANEL_HEIGHT = 1.8
"""Inches."""


def curve(trials: Trials) -> BestOfTrials:
    """Expected best score by number of trials."""
    return _best(trials.outcomes.tobytes(), trials.outcomes.shape, trials.cell, trials.bounded)


@lru_cache  # both widths of the figure need it
def _best(outcomes: bytes, shape: tuple[int, ...], cell: Cell, bounded: bool) -> BestOfTrials:
    return best_of_trials(np.frombuffer(outcomes).reshape(shape), stream("tuning", *cell), bounded=bounded)


def draw(sweep: Sweep) -> Drawing:
    """One panel per loss, start and setting; the curves of the same start and setting are behind it, in grey."""
    tuned = [trials for trials in trials_of(sweep) if decided(trials)]
    if not tuned:
        raise NoDataError("no loss has all of its trials done")
    curves = {trials.cell: curve(trials) for trials in tuned}
    columns = min(style.fitting(COLUMNS, 2), len(tuned))
    lines = -(-len(tuned) // columns)
    with style.settings():
        figure = style.figure(height=PANEL_HEIGHT * lines + 0.3)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for axis, trials in zip(axes, tuned, strict=False):
            others = [found for cell, found in curves.items() if cell[:2] == trials.cell[:2] and cell != trials.cell]
            _panel(axis, trials, curves[trials.cell], others)
        axes[0].set_ylim(*_view(tuned, curves))
        for axis in axes[len(tuned) :]:
            axis.set_visible(False)
        for axis in axes[max(0, len(tuned) - columns) : len(tuned)]:
            axis.set_xlabel("trials")
            axis.tick_params(labelbottom=True)
        for axis in axes[::columns]:
            axis.set_ylabel(f"best {tuned[0].score_name}")
    return Drawing(figure, _caption(tuned))


def _panel(axis: Axes, trials: Trials, own: BestOfTrials, others: list[BestOfTrials]) -> None:
    setting, start, method = trials.cell
    factor, colour = trials.factor, style.colour(method)
    for other in others:
        axis.plot(np.arange(1, other.value.size + 1), other.value * factor, color="#c4c4c4", linewidth=0.8, zorder=1)
    numbers = np.arange(1, own.value.size + 1)
    axis.fill_between(numbers, own.low * factor, own.high * factor, color=colour, alpha=0.18, linewidth=0)
    axis.plot(numbers, own.value * factor, color=colour, marker=style.marker(start), markersize=3.5)
    scores = _scores(trials)
    axis.plot(numbers, scores, linestyle="none", marker="_", markersize=6, color="#333333")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    where = f" from {style.start_name(start)}" + (f"\n{style.short(setting)}" if setting else "")
    axis.set_title(style.short(style.loss_name(method)) + where)


def _scores(trials: Trials) -> np.ndarray:
    """(trials,) as shown; NaN where a trial has no outcome."""
    return np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in trials.outcomes]) * trials.factor


def _view(tuned: list[Trials], curves: dict[Cell, BestOfTrials]) -> tuple[float, float]:
    """Both ends of the axis: all scores, and the intervals of the first trials. Bands of two or three trials, which
    tell next to nothing about the best of them, would leave nothing of the curves to be seen."""
    shown = []
    for trials in tuned:
        own = curves[trials.cell]
        shown += [_scores(trials), np.stack([own.low[0], own.high[0]]) * trials.factor]
    values = np.concatenate(shown)
    values = values[np.isfinite(values)]
    margin = 0.08 * np.ptp(values) or 1.0
    return float(values.min() - margin), float(values.max() + margin)


def _caption(tuned: list[Trials]) -> str:
    trials = {len(one.records) for one in tuned}
    prompts = {one.outcomes.shape[1] for one in tuned}
    count = "–".join(map(str, sorted({min(trials), max(trials)})))
    asked = "–".join(map(str, sorted({min(prompts), max(prompts)})))
    lost = sum(record.state == "failed" for one in tuned for record in one.records)
    name = tuned[0].score_name.removesuffix(" (%)")
    return (
        f"Expected best {name} on validation prompts after tuning with n trials, by loss: the first trial is the "
        "default, the others are drawn from the loss's own space (mean over all orders in which they could have come; "
        "scores of the others are pulled together by as much as noise drives them apart, or the best would be too "
        "high). Dashes: the trials as they were run. Grey: the other losses of the same start. Band: 95% interval that "
        "captures the draw of validation prompts and of settings, taken as normal, not that of the training seed; it "
        "goes on beyond the panel where it is cut, and has no upper end for two trials of an unbounded score. "
        + (f"{lost} trials diverged and count as the worst of their loss. " if lost else "")
        + f"n = {count} trials × {asked} validation prompts, 1 seed."
    )


FIGURE = Entry(order=50, title="Tuning", make=draw)
