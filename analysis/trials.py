"""What was tried in a tuned sweep: trials by cell, their scores on validation prompts, and which one won."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimates import Cell, cell_order, rows_of
from analysis.registry import NoDataError
from kto_bench.results import Record, Sweep


@dataclass(frozen=True)
class Trials:
    """The trials of one cell in their order: ``outcomes`` is (trials, validation prompts), all NaN where a trial has
    none; ``chosen`` is the number of the one whose settings the final runs have, None while there are none."""

    cell: Cell
    score: str
    records: list[Record]
    outcomes: np.ndarray
    chosen: int | None

    @property
    def score_name(self) -> str:
        """How the score is shown."""
        return "win rate (%)" if self.bounded else self.score.replace("_", " ")

    @property
    def bounded(self) -> bool:
        """Whether the score lies within [0, 1], as a win rate does."""
        return self.score == "preference"

    @property
    def factor(self) -> float:
        """What the score is multiplied by where it is shown."""
        return 100.0 if self.bounded else 1.0

    def settings(self, trial: int) -> dict[str, Any]:
        """The value of every parameter of the loss's space."""
        config = self.records[trial].json("config.json")
        return {
            name: config[part][name]
            for name in config.get("space", {})
            for part in ("train", "loss")
            if name in config.get(part, {})
        }


def trials_of(sweep: Sweep) -> list[Trials]:
    """The trials of every cell, in natural order. Raises NoDataError where the sweep was not tuned."""
    current = {record.run: record for record in sweep.trials if record.state != "superseded"}
    if not current:
        raise NoDataError("the sweep was not tuned")
    groups: dict[Cell, list[Record]] = {}
    for row in rows_of(sweep.tuning.runs):
        if row["run"] in current:
            groups.setdefault((row["setting"], row["start"], row["method"]), []).append(current[row["run"]])
    finals = {row["run"]: (row["setting"], row["start"], row["method"]) for row in rows_of(sweep.runs)}
    chosen = {
        finals[record.run]: record.labels.get("trial")
        for record in sweep.records
        if record.labels.get("role") == "final" and record.state != "superseded"
    }
    return [
        _trials(sweep, cell, sorted(groups[cell], key=lambda record: record.labels["trial"]), chosen.get(cell))
        for cell in sorted(groups, key=cell_order)
    ]


def _trials(sweep: Sweep, cell: Cell, records: list[Record], chosen: int | None) -> Trials:
    config = next((found for record in records if (found := record.json("config.json"))), {})
    score = (config.get("tune") or {}).get("score") or "preference"
    table = sweep.tuning.outcomes
    runs = [record.run for record in records]
    if score in table:
        table = table[table["run"].isin(runs)]
        wide = table.pivot_table(index="run", columns="prompt_id", values=score, aggfunc="mean")
        outcomes = wide.reindex(runs).to_numpy(dtype=float)
    else:
        outcomes = np.full((len(runs), 0), np.nan)
    return Trials(cell, str(score), records, outcomes, chosen)


def decided(trials: Trials) -> bool:
    """Whether every trial has been run to its end, and one of them has a score."""
    states = pd.Series([record.state for record in trials.records])
    return bool(states.isin(["done", "failed"]).all()) and not np.isnan(trials.outcomes).all()
