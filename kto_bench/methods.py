"""Which runs are one method's: whose place a later run takes, and what tells methods with the same labels apart."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kto_bench.training.config import RESOURCES

if TYPE_CHECKING:
    from kto_bench.results import Record

PLACES = ("artifacts", "results", "tracking")
"""Parts of a configuration that say where things go, and nothing about the run."""
SAME_METHOD = (
    *("seed", "sweep", "budget", *PLACES),
    *("tune", "space", "role", "trial"),
    *("retry", "refused", "timeout_minutes"),
)
"""Parts of a configuration in which runs of the same method may differ. A budget is in ``train``, too."""
NOT_BEGUN = ("pending", "skipped")
"""States of runs that have nothing to show: they neither replace others nor change how those are called."""
ROUNDING = (
    *(f"{stage}.{field}" for stage in ("train", "start.train") for field in RESOURCES),
    "evaluation.generation.batch_size",
)
"""Keys of a configuration that decide on memory and speed, and change a result by rounding at most."""


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys; lists are leaves."""
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{prefix}.{key}".strip(".")).items()}


def varying(configurations: Iterable[dict[str, Any]]) -> list[str]:
    """The dotted keys whose values are not the same in all flattened ``configurations``."""
    rows = list(configurations)
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({json.dumps(row.get(key), sort_keys=True) for row in rows}) > 1]


def superseded(records: list[Record]) -> list[Record]:
    """The records, with all but the latest of those with equal labels and configuration marked as superseded."""
    latest: dict[str, Record] = {}
    identities = {}
    for record in records:
        config = _configuration(record)
        identities[record.run] = identity = json.dumps(_identity(record, config), sort_keys=True)
        begun = config and record.state not in NOT_BEGUN
        if begun and str(record.status.get("started")) >= str(latest.get(identity, record).status.get("started")):
            latest[identity] = record
    marked = []
    for record in records:
        newer = latest.get(identities[record.run], record)
        if newer is not record and record.state not in ("unreadable", *NOT_BEGUN):
            other = "code, data or batch sizes"
            if record.labels.get("trial") != newer.labels.get("trial"):
                other = "settings, which were the best of earlier trials,"
            reason = f"made with other {other} than {newer.run}, which is later; delete this folder"
            record = replace(record, status={**record.status, "state": "superseded", "reason": reason})
        marked.append(record)
    return marked


def _identity(record: Record, config: dict[str, Any]) -> list[dict[str, Any]]:
    """What a later run must have in common with this one to take its place."""
    final = record.labels.get("role") == "final"  # another trial may have won since
    return [{key: value for key, value in record.labels.items() if not (final and key == "trial")}, config]


def variants(records: list[Record]) -> dict[str, str]:
    """What tells runs with the same labels, whatever their seeds, apart: configuration values, or else the run's name.

    A key that differs among the runs of one start is named for all starts, so that methods compare between starts.
    """
    records = [record for record in records if record.state not in ("unreadable", "superseded", *NOT_BEGUN)]
    configs = {record.run: _configuration(record) for record in records}
    same_labels = defaultdict(list)
    for record in records:
        if configs[record.run]:
            same_labels[_labels(record, "seed", "trial")].append(record)
    differing: dict[str, dict[str, None]] = defaultdict(dict)
    for group in same_labels.values():
        keys = _telling([configs[record.run] for record in group])
        differing[_labels(group[0], "seed", "start", "trial")] |= dict.fromkeys(keys)
    found = {
        record.run: _variant(configs[record.run], list(differing[_labels(record, "seed", "start", "trial")]))
        for record in records
    }
    cells = {record.run: (_labels(record), found[record.run]) for record in records}
    alike = Counter(cells.values())
    return {
        run: f"{variant} [{run.rpartition('-')[2]}]".lstrip() if alike[cells[run]] > 1 else variant
        for run, variant in found.items()
    }


def _configuration(record: Record) -> dict[str, Any]:
    """The flattened configuration without the keys that say nothing about the method.

    In a tuned sweep these are the values that were tuned, too: the method is the loss, tuned.
    """
    config = flatten(record.json("config.json"))
    untrained = "loss._target_" in config and config["loss._target_"] is None
    left_out = {*SAME_METHOD, "train"} if untrained else SAME_METHOD
    space = {k.split(".")[1] for k in config if k.startswith("space.")} if "role" in record.labels else set()
    without = {*ROUNDING, *(f"{part}.{name}" for part in ("train", "loss") for name in space)}
    return {k: v for k, v in config.items() if k.partition(".")[0] not in left_out and k not in without}


def _labels(record: Record, *without: str) -> str:
    return json.dumps({key: value for key, value in record.labels.items() if key not in without}, sort_keys=True)


def _telling(configs: list[dict[str, Any]]) -> list[str]:
    """The keys whose values tell all different ``configs`` apart; names and classes only where nothing else does."""
    keys = varying(configs)
    for left_out in (("name", "_target_"), ("_target_",), ("name",)):
        fewer = [key for key in keys if key.rpartition(".")[2] not in left_out]
        if _distinct(configs, fewer) == _distinct(configs, keys):
            return fewer
    return keys


def _distinct(configs: list[dict[str, Any]], keys: list[str]) -> int:
    return len({json.dumps([config.get(key) for key in keys], sort_keys=True) for config in configs})


def _variant(config: dict[str, Any], keys: list[str]) -> str:
    """ "beta=0.1 epochs=2"; keys that end alike are written in full, those that ``config`` lacks are left out."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    names = {key: key if ends[key.rpartition(".")[2]] > 1 else key.rpartition(".")[2] for key in keys}
    return " ".join(f"{names[key]}={config[key]}" for key in keys if key in config)
