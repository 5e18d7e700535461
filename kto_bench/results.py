"""Records in, tidy tables out: everything that figures, tables and reports know about a sweep comes through here.

A record is one folder ``results/<sweep>/<run>/`` of small text files. Loading is tolerant of what interrupted sweeps
leave behind (runs that failed, were preempted or skipped, still run or were killed in the middle of a line) and strict
about everything else: a damaged line that is not the last one is an error that names the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kto_bench import result_rows
from kto_bench.lines import read_content, read_lines
from kto_bench.methods import flatten as flatten
from kto_bench.methods import superseded, variants
from kto_bench.methods import varying as varying

LABELS = ("loss", "start", "model", "feedback", "seed")
TUNED = ("role", "trial")
"""Labels that runs of a tuned sweep have as well: trial or final, and the number of the trial, or of the winner."""
KEYS = ["run", "setting", "start", "method", "seed", "loss", "model", "feedback"]
"""Columns that every table begins with (see ``Sweep``)."""


class RecordError(ValueError):
    """A sweep or record that cannot be used. The message names the folder or file and says what to do."""


@dataclass(frozen=True)
class Record:
    """One run's folder. ``labels`` has the keys of LABELS and whatever else the run was labelled with."""

    folder: Path
    run: str
    labels: dict[str, Any]
    status: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read status and labels; a folder whose status cannot be read gets the state "unreadable", with the reason."""
        run, trouble = _read_object(folder / "run.json")
        status, status_trouble = _read_object(folder / "status.json")
        trouble = status_trouble or trouble
        if trouble:
            status = {**status, "state": "unreadable", "reason": f"{trouble}; launch the sweep again to redo this run"}
        labels = {**dict.fromkeys(LABELS[:-1], "?"), "seed": -1, **run.get("labels", {})}
        return cls(folder, run.get("run", folder.name), labels, status)

    @property
    def state(self) -> str:
        """pending, running, done, failed, preempted, skipped, superseded or unreadable."""
        return str(self.status.get("state", "unreadable"))

    def json(self, name: str) -> dict[str, Any]:
        """The object in the file ``name``; empty where the run did not get as far as writing it whole."""
        return _read_object(self.folder / name)[0]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects in the JSON-lines file ``name``; a half-written last line is left out."""
        try:
            return read_lines(self.folder / name)
        except ValueError as error:
            raise RecordError(f"{error}; delete the run's folder and launch the sweep again") from error


@dataclass(frozen=True, eq=False)
class Sweep:
    """All records of one sweep, and tables of them. A sweep equals itself only, so what is computed of one can be kept.

    Every table begins with the columns KEYS. ``setting`` joins the values of those labels, apart from loss, start and
    seed, that vary over the sweep ("" if none does): runs are compared only within a setting. ``method`` is the loss,
    extended by what differs ("kto beta=0.1") where runs with the same labels apart from the seed have different
    configurations, so that these are never averaged. A run whose labels and configuration are those of a later one,
    made before the code of the suite, the content of its data or a key of ROUNDING changed, has the state "superseded".

    ``outcomes``, ``benchmarks``, ``completions``, ``guards`` and what is over training hold runs that are done,
    ``training`` and ``warnings`` also those that are not yet, ``runs`` all.

    Trials of a tuned sweep are in none of these: they are a sweep of their own, ``tuning``.
    """

    name: str
    folder: Path
    records: list[Record]
    trials: list[Record] = field(default_factory=list)

    @classmethod
    def load(cls, name: str, results: str | Path = "results") -> Sweep:
        """Look for the sweep ``name`` in ``results/<name>``, then in ``results/reference/<name>``.

        ``folder`` says which one it was. Raises RecordError, with a list of the sweeps that exist, if neither has runs.
        """
        root = Path(results)
        for folder in (root / name, root / "reference" / name):
            records = [Record.read(path) for path in _run_folders(folder)]
            if records:
                records = superseded(records)
                trials = [record for record in records if record.labels.get("role") == "trial"]
                return cls(name, folder, [record for record in records if record not in trials], trials)
        sweeps = ", ".join(available(root)) or "none"
        what = "has no runs yet" if (root / name).is_dir() else "does not exist"
        raise RecordError(
            f"sweep {name!r} {what} in {root} or {root / 'reference'}; sweeps that exist there: {sweeps}. "
            f"Name one of them, point --results at another folder, or launch the sweep first."
        )

    @cached_property
    def tuning(self) -> Sweep:
        """The trials, in tables like those of the sweep itself."""
        return Sweep(self.name, self.folder, self.trials)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: state, reason and traceback ("" if none), wall_seconds (sum over stages, cached ones count
        0), times."""
        rows = [
            {
                **self._keys[record.run],
                "state": record.state,
                "reason": record.status.get("reason") or "",
                "traceback": record.status.get("traceback") or "",
                "wall_seconds": result_rows.wall_seconds(record.json("timing.json")),
                "started": record.status.get("started"),
                "finished": record.status.get("finished"),
                "host": record.status.get("host"),
            }
            for record in self.records
        ]
        columns = ["state", "reason", "traceback", "wall_seconds", "started", "finished", "host"]
        return pd.DataFrame(rows, columns=[*KEYS, *columns])

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """One row per run and prompt: prompt_id, tokens, ended, preference and one column per score of the judge.

        ``preference`` is 1, 0.5 or 0 for a win, tie or loss against the prompt's reference completion; NaN where the
        prompt was not judged.
        """
        return self._table(result_rows.outcomes, ["prompt_id", "tokens", "ended", "preference"])

    @cached_property
    def completions(self) -> pd.DataFrame:
        """One row per run and prompt: prompt_id, prompt (the text of its messages), completion, reference, tokens."""
        return self._table(
            result_rows.completions, ["prompt_id", "prompt", "completion", "reference", "tokens", "ended"]
        )

    @cached_property
    def benchmarks(self) -> pd.DataFrame:
        """One row per run, task, metric and document: task, metric, doc_id, value."""
        return self._table(lambda record: record.lines("benchmarks.jsonl"), ["task", "metric", "doc_id", "value"])

    @cached_property
    def choices(self) -> pd.DataFrame:
        """One row per run, multiple-choice task and document, where ``evaluation.benchmarks.choices`` recorded them.

        task, doc_id, normalised (whether log-probabilities are divided by the choice's characters, as for tasks that
        are scored by acc_norm), probability (of the right choice, among the choices), confidence (the largest one),
        correct (1 if that is the right one's, else 0), and brier, the sum over choices of (p - right)^2 (Brier 1950).
        """
        columns = ["task", "doc_id", "normalised", "probability", "confidence", "correct", "brier"]
        return self._table(result_rows.choices, columns)

    @cached_property
    def over_training(self) -> pd.DataFrame:
        """One row per run, step at which it was evaluated (the last included) and prompt: step, completions (seen in
        training so far), prompt_id, tokens, ended, kl (in nats from the start), preference and the judge's scores."""
        columns = ["step", "completions", "prompt_id", "tokens", "ended", "kl", "preference"]
        return self._table(result_rows.over_training, columns)

    @cached_property
    def benchmarks_over_training(self) -> pd.DataFrame:
        """One row per run, step, task, metric and document: step, completions, task, metric, doc_id, value."""
        columns = ["step", "completions", "task", "metric", "doc_id", "value"]
        return self._table(lambda record: record.lines("benchmarks_over_training.jsonl"), columns)

    def settings(self, keys: Iterable[str]) -> pd.DataFrame:
        """One row per run: ``parameters`` (of the model, embeddings included; NaN in records without them), and a
        column for each of ``keys``, the dotted keys of a configuration (NaN where the run's has none)."""
        wanted = list(keys)
        return self._table(lambda record: result_rows.settings(record, wanted), ["parameters", *wanted])

    @cached_property
    def implied_rewards(self) -> pd.DataFrame:
        """One row per run, labelled example and completion of it, where ``evaluation.implied_reward`` asked for them.

        example, split (heldout or train), side (chosen, rejected, or completion for single ones), desirable (the label
        that the loss was or would be given), mislabelled (label noise turned it round), reward (implied, in the loss's
        units), declared (whether the loss states that reward; else it is the mean log-probability per token),
        reference_point (in units of the reward; NaN without one), log_prob and reference_log_prob (nats), tokens, and
        one column per score that the feedback's source knows (``utility``, ``perceived``, ...).
        """
        columns = ["example", "split", "side", "desirable", "mislabelled", "declared", "reference_point"]
        return self._table(result_rows.implied_rewards, [*columns, "reward", "log_prob", "tokens"])

    @cached_property
    def backends(self) -> pd.DataFrame:
        """One row per run that has completions: ``backend``, what generated them."""
        return self._table(result_rows.backend, ["backend"])

    @cached_property
    def guards(self) -> pd.DataFrame:
        """One row per run: the score guards, and ``judge`` with ``judged``, the number of prompts it judged.

        Of judges of which it is known also first_preferred (the mean preference for the output that is shown first),
        consistent (the share of prompts with one verdict in both orders), noise (the standard error of the win rate
        that the judge's noise alone makes) and dollars (what judging cost).
        """
        return self._table(result_rows.guards, ["judge", "judged", "n", "mean_tokens", "share_capped", "share_empty"])

    @cached_property
    def question_sets(self) -> pd.DataFrame:
        """One row per run and statistic of a published set of questions: set, name, value, standard_error, low, high,
        scale (what a table multiplies by), published (rows of its leaderboard) and notes (why ours differ)."""
        return self._table(
            result_rows.question_sets, ["set", "name", "value", "standard_error", "low", "high", "scale"]
        )

    @cached_property
    def budgets(self) -> pd.DataFrame:
        """One row per run: updates, completions, tokens and flops that its alignment used, and ``matched``, what all
        runs of its sweep were given alike ("tokens: 100000", or "" where nothing was)."""
        return self._table(result_rows.budgets, ["updates", "completions", "tokens", "flops", "matched"])

    @cached_property
    def warnings(self) -> pd.DataFrame:
        """One row per run and sentence of warning: what was unwise about its data or went wrong in its training."""
        return self._table(result_rows.warnings, ["warning"], states=None)

    @cached_property
    def training(self) -> pd.DataFrame:
        """One row per run and optimiser step, one column per metric, NaN where a loss does not log it.

        The value of the loss is in ``training_loss``, because ``loss`` is the label.
        """
        return self._table(result_rows.training, ["step", "training_loss"], states=None)

    def _table(
        self,
        rows: Callable[[Record], list[dict[str, Any]]],
        columns: list[str],
        states: tuple[str, ...] | None = ("done",),
    ) -> pd.DataFrame:
        parts = []
        for record in self.records:
            wanted = record.state in states if states else record.state != "superseded"
            part = pd.DataFrame(rows(record)) if wanted else pd.DataFrame()
            if len(part):
                parts.append(pd.concat([pd.DataFrame(self._keys[record.run], index=part.index), part], axis=1))
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*KEYS, *columns])
        return table.reindex(columns=[*table.columns, *(column for column in columns if column not in table)])

    @cached_property
    def _keys(self) -> dict[str, dict[str, Any]]:
        differing = [
            label
            for label in sorted({key for record in self.records for key in record.labels})
            if label not in ("loss", "start", "seed", *TUNED)
            and len({str(record.labels.get(label)) for record in self.records if record.labels["start"] != "?"}) > 1
        ]
        told_apart = variants(self.records)
        return {
            record.run: {
                "run": record.run,
                "setting": " · ".join(str(record.labels.get(label, "?")) for label in differing),
                "start": str(record.labels["start"]),
                "method": f"{record.labels['loss']} {told_apart.get(record.run, '')}".strip(),
                "seed": int(record.labels["seed"]),
                "loss": str(record.labels["loss"]),
                "model": str(record.labels["model"]),
                "feedback": str(record.labels["feedback"]),
            }
            for record in self.records
        }


def available(results: str | Path = "results") -> list[str]:
    """Names of the sweeps that have at least one run under ``results`` or ``results/reference``."""
    root = Path(results)
    folders = [folder for parent in (root, root / "reference") if parent.is_dir() for folder in parent.iterdir()]
    return sorted({folder.name for folder in folders if folder.name != "reference" and _run_folders(folder)})


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if (path / "run.json").is_file() or (path / "status.json").is_file()
    )


def _read_object(path: Path) -> tuple[dict[str, Any], str | None]:
    try:
        value = json.loads(read_content(path))
    except FileNotFoundError:
        return {}, f"{path.name} is missing"
    except ValueError:
        return {}, f"{path.name} is not whole"
    return (value, None) if isinstance(value, dict) else ({}, f"{path.name} is not a JSON object")
