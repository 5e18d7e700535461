"""What a figure of a paper is drawn from: the records of a sweep, the rows of a published study, or both.

Both become rows of the same columns, so that one piece of code draws either. ``origin`` tells them apart; a figure
shows published points hollow. Rows of a published study keep the paper's name of a model; an own run is put beside them
only where its model is, by the suite's name, the same checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import style
from analysis.estimates import CELL, cells, estimates, rows_of, span
from analysis.registry import NoDataError
from analysis.statistics import critical_normal, largest_error, wilson
from kto_bench.published import Published
from kto_bench.results import Sweep

OWN, PUBLISHED = "own", "published"
COUNTED = "95% Wilson intervals of the counts, which capture the draw of prompts only"
"""Of published win rates."""
FACTS = {
    "keep_desirable": "feedback.keep_desirable",
    "keep_undesirable": "feedback.keep_undesirable",
    "one_completion_per_prompt": "feedback.one_completion_per_prompt",
    "desirable_weight": "loss.desirable_weight",
    "undesirable_weight": "loss.undesirable_weight",
}
"""Columns of a published study that are keys of a run's configuration."""
UNLESS_SAID = {"keep_desirable": 1.0, "keep_undesirable": 1.0, "one_completion_per_prompt": False}
Z95 = critical_normal(0.95)


@dataclass(frozen=True)
class Evidence:
    """A sweep, a published study, or a sweep with a published study laid over it."""

    sweep: Sweep | None = None
    published: Published | None = None

    def __post_init__(self) -> None:
        if self.sweep is None and self.published is None:
            raise ValueError("evidence needs a sweep, a published study, or both")

    @property
    def name(self) -> str:
        """Of the sweep, or else of the study."""
        return self.sweep.name if self.sweep is not None else self.published.name  # type: ignore[union-attr]

    @cached_property
    def own(self) -> pd.DataFrame:
        """One row per cell of the sweep that was judged: what ``judged`` has, and ``cell``."""
        if self.sweep is None or self.sweep.outcomes["preference"].isna().all():
            return pd.DataFrame(columns=COLUMNS)
        table = self.sweep.outcomes.dropna(subset=["preference"])
        rates = estimates(table, "preference", bounded=True)
        lengths = {tuple(row[key] for key in CELL): row for row in rows_of(estimates(table, "tokens"))}
        medians = {cell: float(rows["tokens"].median()) for cell, rows in cells(table)}
        facts = {cell: rows.iloc[0] for cell, rows in cells(self.sweep.settings(list(FACTS.values())))}
        rows = []
        for rate in rows_of(rates):
            cell = (rate["setting"], rate["start"], rate["method"])
            about, tokens = facts[cell], lengths[cell]
            row = {name: about[key] for name, key in FACTS.items()}
            row |= {name: value for name, value in UNLESS_SAID.items() if pd.isna(row[name])}
            row |= {"origin": OWN, "cell": cell, "experiment": "", "family": "", "judge": _judge(self.sweep)}
            row |= {"model": about["model"], "name": about["model"], "parameters": about["parameters"]}
            row |= {"start": rate["start"], "loss": about["loss"], "feedback": about["feedback"]}
            row |= {"variant": _variant(rate["method"], about["loss"]), "source": self.sweep.name}
            row |= {key: rate[key] for key in ("value", "low", "high", "seeds", "interval")} | {"n": rate["prompts"]}
            row |= {"mean_tokens": tokens["value"], "tokens_low": tokens["low"], "tokens_high": tokens["high"]}
            rows.append({**row, "median_tokens": medians[cell], "trust": "primary", "wins": np.nan})
        return pd.DataFrame(rows, columns=COLUMNS)

    def judged(self, experiment: str) -> pd.DataFrame:
        """Own cells and the published runs of ``experiment``, one row each, with the columns COLUMNS.

        ``value``, ``low`` and ``high`` are the win rate with its 95% interval: the suite's for own cells, Wilson's for
        published counts. ``tokens_low`` and ``tokens_high`` are those of ``mean_tokens``; of published means, whose
        spread is unknown, the widest possible (``statistics.largest_error``).
        """
        if self.published is None:
            return self.own
        table = self.published.judged
        rows = [_published_row(row) for row in rows_of(table[table["experiment"] == experiment])]
        found = pd.DataFrame(rows, columns=COLUMNS)
        return pd.concat([self.own.astype(object), found.astype(object)]).infer_objects().reset_index(drop=True)

    def scores(self, experiment: str) -> pd.DataFrame:
        """The published numbers of ``experiment``, as in ``Published.scores``; no rows without a study."""
        if self.published is None:
            return pd.DataFrame(columns=["experiment"])
        table = self.published.scores
        return table[table["experiment"] == experiment].reset_index(drop=True)


def grouped(rows: pd.DataFrame, keys: list[str]) -> list[tuple[Any, pd.DataFrame]]:
    """The rows by ``keys``, in the order in which they first appear; missing values are a key like others."""
    return [(key, part) for key, part in rows.groupby(keys, sort=False, dropna=False)]


COLUMNS = [
    *("origin", "cell", "experiment", "family", "model", "name", "parameters", "feedback", "start", "loss", "variant"),
    *FACTS,
    *("value", "low", "high", "wins", "n", "seeds", "interval"),
    *("mean_tokens", "tokens_low", "tokens_high", "median_tokens", "judge", "trust", "source"),
]


def _published_row(row: dict[str, Any]) -> dict[str, Any]:
    low, high = wilson(row["wins"], row["n"])
    mean = row["mean_tokens"]
    half = np.nan if pd.isna(mean + row["max_tokens"]) else Z95 * largest_error(mean, row["n"], row["max_tokens"])
    more: dict[str, Any] = {
        "origin": PUBLISHED,
        "cell": None,
        "feedback": "",
        "variant": "",
        "interval": "wilson",
        "seeds": 1,
    }
    more |= {"value": row["wins"] / row["n"], "low": low, "high": high}
    return row | more | {"tokens_low": max(0.0, mean - half), "tokens_high": mean + half}


def judged_or_reason(evidence: Evidence, experiment: str, missing: str) -> pd.DataFrame:
    """``evidence.judged(experiment)``; raises NoDataError with ``missing`` where there are no rows."""
    found = evidence.judged(experiment)
    if found.empty:
        raise NoDataError(missing)
    return found


def method_name(loss: str, one_completion_per_prompt: bool) -> str:
    """How figures of papers call a loss: "KTO, one completion per prompt"."""
    return style.loss_name(loss) + (", one completion per prompt" if one_completion_per_prompt else "")


def short_method_name(loss: str, one_completion_per_prompt: bool) -> str:
    """``method_name`` for a label of a figure."""
    name = method_name(loss, one_completion_per_prompt)
    if len(name) > style.MAX_LABELS[style.width()]:
        name = name.replace("one completion per prompt", "one per prompt").replace("reference point", "ref. point")
    return style.short(name)


def origins(rows: pd.DataFrame) -> list[str]:
    """The origins that ``rows`` have, own first."""
    return [origin for origin in (OWN, PUBLISHED) if (rows["origin"] == origin).any()]


def origin_name(rows: pd.DataFrame, origin: str) -> str:
    """What a legend says of an origin: "published, GPT-4, n=512"."""
    part = rows[rows["origin"] == origin]
    judges = " and ".join(sorted({str(judge).partition(" (")[0] for judge in part["judge"] if judge}))
    sizes = part["n"].dropna()
    parts = ["own runs" if origin == OWN else "published", judges, f"n={span(sizes, '').strip()}" if len(sizes) else ""]
    return ", ".join(filter(None, parts))


def panel_names(rows: pd.DataFrame) -> list[str]:
    """Whose panel each row belongs in: own runs of a checkpoint that the study has are beside the study's, all others
    by themselves."""
    known = {row["model"]: row["name"] for row in rows_of(rows) if row["origin"] == PUBLISHED and row["model"]}
    return [known.get(row["model"], row["name"]) if row["origin"] == OWN else row["name"] for row in rows_of(rows)]


def source_note(rows: pd.DataFrame, published: str = COUNTED) -> str:
    """n, judge, source and kind of interval of ``rows``, for a caption; ``published`` says that of published rows."""
    notes = []
    for origin in origins(rows):
        part = rows[rows["origin"] == origin]
        judges = " and ".join(sorted(part["judge"].unique()))
        n = f"n = {span(part['n'], 'prompts')}"
        if origin == OWN:
            kind = " or ".join(sorted({_captured(row) for row in rows_of(part)}))
            notes.append(
                f"Own runs (filled): sweep {part['source'].iloc[0]}, judge {judges}, {n} × "
                f"{span(part['seeds'], 'seeds')}; 95% intervals ({kind})."
            )
        else:
            sources = sorted({source.partition(" (")[0] for source in part["source"]})
            notes.append(f"Published (hollow): {'; '.join(sources)}, judge {judges}, {n}, one seed; {published}.")
    return " ".join(notes)


def _captured(row: dict[str, Any]) -> str:
    """What the interval of an own row captures."""
    if row["seeds"] > 1:
        return "of prompts and seeds"
    return "Wilson, of prompts only" if row["interval"] == "wilson" else "of prompts only"


def _variant(method: str, loss: str) -> str:
    """What tells a method from others of its loss, without what figures of papers tell by themselves."""
    return re.sub(r" ?\bone_completion_per_prompt=\S+", "", method.removeprefix(loss)).strip()


def _judge(sweep: Sweep) -> str:
    return ", ".join(sorted(sweep.guards["judge"].dropna().astype(str).unique())) or "unknown"
