"""What a task of a suite will read: few-shot examples, splits and local files; decided before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.evaluation.benchmarks.task_data import LocalSet, find

FIELD = "evaluation.benchmarks"
IFEVAL = ("ifeval", "instruction-following-eval")
"""What data sets are called whose metric counts sentences; the second is the leaderboard's copy."""


@dataclass(frozen=True)
class TaskPlan:
    """One task of lm-eval, as it will be run.

    ``changes`` go over its own configuration. ``scored`` is the split whose documents are asked, and ``examples`` the
    one that few-shot examples are drawn from (None: the task brings its own, or has none).
    """

    name: str
    shots: int
    scored: str
    examples: str | None
    changes: Mapping[str, Any]
    unsafe: bool
    needs_sentences: bool
    local: LocalSet | None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are read."""
        return tuple(dict.fromkeys([self.scored, *([self.examples] if self.examples else [])]))

    @property
    def digest(self) -> str | None:
        """The content of the local files behind the task; None where it comes from the hub or from the task itself."""
        return self.local.digest(self.splits) if self.local else None

    def dataset(self, **options: Any) -> Any:
        """The local splits, asked for by lm-eval with ``options`` that mean nothing here."""
        assert self.local is not None
        return self.local.load(self.splits)


def plan_task(
    name: str,
    config: Mapping[str, Any],
    *,
    shots: int | None,
    split: str | None,
    fewshot_split: str | None,
    root: Path | None,
) -> TaskPlan:
    """Decide what the task ``name``, with lm-eval's ``config`` for it, will read; None leaves the task's own choice.

    Raises ConfigError for a data set or split that ``root`` lacks, and for tasks that cannot be served from there.
    """
    own = config.get("num_fewshot")
    count = 0 if own == 0 else (own if shots is None else shots) or 0  # lm-eval's rule: 0 stays 0
    few = dict(config.get("fewshot_config") or {})
    test, validation, training = (config.get(f"{kind}_split") for kind in ("test", "validation", "training"))
    scored = split or test or validation or "test"
    given = few.get("split") or config.get("fewshot_split")
    brings_own = few.get("samples") is not None and not given
    examples = None
    if count and (fewshot_split or not brings_own):
        examples = fewshot_split or given or training or validation or scored
    loads_itself = config.get("custom_dataset") is not None
    local = None
    if root is not None and not loads_itself:
        if "class" in config or config.get("inline"):
            raise ConfigError(
                f"evaluation.data_root: the task {name} has no file of its own, so local data cannot be put under it; "
                "leave it out of the tasks, or set evaluation.data_root to null"
            )
        local = find(root, str(config.get("dataset_path")), config.get("dataset_name"))
        _check_splits(name, local, scored, examples)
    changes: dict[str, Any] = {}
    if split or fewshot_split or local or examples == scored:
        # Where examples come from the scored split lm-eval leaves the asked document out only if both are named so.
        changes = {
            "test_split": scored,
            "validation_split": None,
            "training_split": None if local else training,
            "fewshot_split": examples,
        }
    path = str(config.get("dataset_path")).lower()
    return TaskPlan(
        name=name,
        shots=count,
        scored=scored,
        examples=examples,
        changes=changes,
        unsafe=bool(config.get("unsafe_code")),
        needs_sentences=any(name in path for name in IFEVAL),
        local=local,
    )


def _check_splits(name: str, local: LocalSet, scored: str, examples: str | None) -> None:
    there = ", ".join(sorted(local.splits)) or "none"
    if not local.files(scored):
        hint = next((split for split in ("validation", "test") if split in local.splits), "SPLIT")
        raise ConfigError(
            f"evaluation.data_root: {local.folder} lacks the split {scored!r}, which {name} is scored on; it has "
            f"{there}. Put the split there, or score another with ++{FIELD}.splits.{name}={hint}"
        )
    if examples is not None and examples not in local.splits and not (examples == scored and local.only):
        raise ConfigError(
            f"evaluation.data_root: {local.folder} lacks the split {examples!r}, from which {name} draws its few-shot "
            f"examples; it has {there}. Put the split there, draw from another with "
            f"++{FIELD}.fewshot_splits.{name}={scored}, or ask without examples: {FIELD}.num_fewshot=0"
        )


def check_configurations(plans: Iterable[TaskPlan]) -> None:
    """Refuse to read the same local files for two configurations of a set; one of them would be scored on the other's.

    Splits that lie right in a set's folder stand for any configuration, since most sets have but one.
    """
    read: dict[tuple[Path, ...], TaskPlan] = {}
    for plan in plans:
        if plan.local is None:
            continue
        other = read.setdefault(plan.local.files(plan.scored), plan)
        assert other.local is not None
        if other.local.name != plan.local.name:
            raise ConfigError(
                f"evaluation.data_root: {plan.local.folder} would be read for both {other.name} ({other.local.name}) "
                f"and {plan.name} ({plan.local.name}); put each configuration into a folder or file of that name there"
            )


def digest_of(plans: Mapping[str, TaskPlan]) -> str | None:
    """The content of all local files behind some tasks; None where there are none."""
    digests = {name: plan.digest for name, plan in plans.items() if plan.local is not None}
    if not digests:
        return None
    return hashlib.sha256(
        "\n".join(f"{name}\0{digest}" for name, digest in sorted(digests.items())).encode()
    ).hexdigest()
