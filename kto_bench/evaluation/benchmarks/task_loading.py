"""lm-eval's tasks as planned: its own prompts and metrics, over the splits and the files that were decided on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.tasks._factory import TaskFactory

from kto_bench.evaluation.benchmarks.code_execution import in_place_of_code_eval
from kto_bench.evaluation.benchmarks.sentences import prepare
from kto_bench.evaluation.benchmarks.task_plan import TaskPlan


class PlannedTasks(TaskFactory):
    """Builds tasks with the changes of their plans, so that no task file has to be copied to be changed."""

    def __init__(self, plans: Mapping[str, TaskPlan]) -> None:
        super().__init__()
        self._plans = plans

    def _load_full_config(self, entry: Any, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        name = config.get("task")
        plan = self._plans.get(name) if isinstance(name, str) else None
        if plan is None:
            return config
        config |= plan.changes
        if "split" in (config.get("fewshot_config") or {}) and plan.changes:
            config["fewshot_config"] = {**config["fewshot_config"], "split": plan.examples}
        if plan.local is not None:
            config["custom_dataset"] = plan.dataset
        return config


def load(manager: Any, entry: str, plans: Mapping[str, TaskPlan], root: Path | None, untrained: bool) -> dict[str, Any]:
    """What ``TaskManager.load`` gives for ``entry``, {"tasks", "groups", "group_map"}, with examples as planned."""
    if any(plan.needs_sentences for plan in plans.values()):
        prepare(root, untrained)
    unsafe = any(plan.unsafe for plan in plans.values())
    with in_place_of_code_eval() if unsafe else contextlib.nullcontext():
        manager._factory = PlannedTasks(plans)
        loaded: dict[str, Any] = manager.load([entry])
    for name, task in loaded["tasks"].items():
        task.set_config(key="num_fewshot", value=plans[name].shots)
    return loaded
