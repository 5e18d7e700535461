"""Panels of the W&B report: scores and training curves over the mirrored runs, by start and loss."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis import style
from analysis.estimates import rows_of
from analysis.training import COLUMNS
from kto_bench.mirror import SAMPLES_TABLE, step_keys, summary_keys
from kto_bench.results import Sweep

SCORES = (
    (r"head_to_head/win_rate", "Win rate"),
    (r"head_to_head/means/(?!reference_)(.+)", "Mean {}"),
    (r"statistics/values/(.+)/value", "Question set: {}"),
    (r"benchmarks/([^/]+)/value", "Benchmark {}"),
    (r"guards/(mean_tokens|share_capped|share_empty|repetition_4gram)", "Guard: {}"),
)
"""Keys of a W&B summary that have a panel, in this order, and its title."""
SCORES_NOTE = (
    "Bars are means over the seeds, by loss; whiskers go from the lowest seed to the highest. They are no confidence "
    "intervals: these are in the tables below."
)
TRAINING_NOTE = (
    "Lines are means over the seeds, by loss; bands go from the lowest seed to the highest. Each loss defines its own "
    "value and rewards, so heights compare within a loss only."
)


@dataclass(frozen=True)
class Place:
    """A project in W&B."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


def panels(sweep: Sweep, ids: dict[str, str], place: Place) -> Iterator[Any]:
    """A grid with the scores of all starts, and one for each start with its training curves and completions."""
    import wandb_workspaces.reports.v2 as wr

    rows = [row for row in rows_of(sweep.runs) if row["run"] in ids]
    losses = sorted({row["loss"] for row in rows}, key=style.loss_order)
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["setting"], style.start_order(row["start"]))):
        cells.setdefault((row["setting"], row["start"]), []).append(row)
    run_sets = {cell: _run_sets(sweep, ids, place, part) for cell, part in cells.items()}

    scores = [summary_keys(record.json("scores.json")) for record in sweep.records if record.run in ids]
    keys = list(dict.fromkeys(key for one in scores for key in one))
    bars: list[Any] = [
        wr.BarPlot(title=title, metrics=[key], orientation="v", **_by_loss()) for key, title in _scored(keys)
    ]
    if bars:
        everywhere = [one for group in run_sets.values() for one in group]
        colours = _colours(everywhere, losses)
        grid = wr.PanelGrid(runsets=everywhere, panels=bars, custom_run_colors=colours)
        yield from (wr.H2("Scores by loss and start"), wr.MarkdownBlock(SCORES_NOTE), grid)
    for cell, part in cells.items():
        shown = _curves(sweep, [row["run"] for row in part])
        if any(row["state"] == "done" for row in part):
            shown.append(wr.WeavePanelSummaryTable(table_name=SAMPLES_TABLE, layout=wr.Layout(w=24, h=10)))
        if shown:
            colours = _colours(run_sets[cell], losses)
            grid = wr.PanelGrid(runsets=run_sets[cell], panels=shown, custom_run_colors=colours)
            yield from (wr.H2(f"From the {_name(*cell)}"), wr.MarkdownBlock(TRAINING_NOTE), grid)


def _curves(sweep: Sweep, runs: list[str]) -> list[Any]:
    """The panels of the training figure for which one of the runs has a metric."""
    import wandb_workspaces.reports.v2 as wr

    logged = sweep.training[sweep.training["run"].isin(runs)].dropna(axis="columns", how="all")
    panels: list[Any] = []
    for title, curves in COLUMNS.items():
        names = [name.removeprefix("training_") for names, _ in curves for name in names if name in logged]
        if names:
            metrics: list[Any] = list(step_keys(dict.fromkeys(names)))
            panels.append(wr.LinePlot(title=title, x="Step", y=metrics, title_x="optimiser step", **_by_loss()))
    return panels


def _scored(keys: list[str]) -> Iterator[tuple[str, str]]:
    for pattern, title in SCORES:
        for key in keys:
            if found := re.fullmatch(pattern, key):
                yield key, title.format(*(name.replace("_", " ") for name in found.groups()))


def _by_loss() -> dict[str, Any]:
    import wandb_workspaces.reports.v2 as wr

    return {"groupby": wr.Config("label_loss"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}


def _run_sets(sweep: Sweep, ids: dict[str, str], place: Place, rows: list[dict[str, Any]]) -> list[Any]:
    """The runs of a setting and start as a run set, grouped by loss.

    Methods that share a loss ("kto beta=0.1") have one each, because W&B would average over them. The ids name the
    runs of this report: trials, superseded runs and those of other cells are in the same group in W&B.
    """
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    methods = sorted({row["method"] for row in rows}, key=style.loss_order)
    apart = len(methods) > len({row["loss"] for row in rows})
    parts = [[row for row in rows if row["method"] == method] for method in methods] if apart else [rows]
    return [
        wr.Runset(
            entity=place.entity,
            project=place.project,
            name=_name(part[0]["setting"], part[0]["start"])
            + (f": {style.loss_name(part[0]['method'])}" if apart else ""),
            filters=[expr.Metric("Group") == sweep.name, expr.Metric("ID").isin([ids[row["run"]] for row in part])],
            groupby=["config.label_loss"],
            order=[wr.OrderBy(wr.Config("label_seed"), ascending=True)],
        )
        for part in parts
    ]


def _colours(run_sets: list[Any], losses: list[str]) -> dict[Any, Any]:
    """Each loss in the colour that it has in the figures."""
    import wandb_workspaces.reports.v2 as wr

    keys = {loss: wr.RunsetGroupKey(wr.Config("label_loss"), loss) for loss in losses}
    return {wr.RunsetGroup(one.name, (keys[loss],)): style.colour(loss) for one in run_sets for loss in losses}


def _name(setting: str, start: str) -> str:
    return f"{style.start_name(start)} start" + (f" ({setting})" if setting else "")
