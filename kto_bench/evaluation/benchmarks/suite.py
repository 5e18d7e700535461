"""Standard benchmarks through lm-eval's Python interface."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from kto_bench.component import Component, ConfigError
from kto_bench.evaluation.benchmarks.sentences import splitter
from kto_bench.evaluation.benchmarks.task_index import folder_of, hash_of_folder, is_known, leaves_of, manager_for
from kto_bench.evaluation.benchmarks.task_plan import TaskPlan, check_configurations, digest_of, plan_task
from kto_bench.evaluation.quiet import quiet

FIELD = "evaluation.benchmarks"
Shots = Annotated[int, Field(ge=0)]
Plans = dict[str, dict[str, TaskPlan]]


class Benchmarks(Component):
    """Which lm-eval tasks are run, and how.

    ``tasks`` are names of tasks, groups or tags. ``include_path`` adds task files: a folder, or ``pkg:package.module``
    for the folder of an importable package. ``num_fewshot`` is a number for all tasks or one per task or group; None
    leaves each task's own (and a task that fixes 0 stays at 0). ``splits`` and ``fewshot_splits`` choose, per task or
    group, other splits of its data set to be scored and to draw few-shot examples from; an asked document is never its
    own example. ``limit`` takes the first documents of each task. ``apply_chat_template`` asks each question as a user
    turn of the checkpoint's chat template, encoded as in training; without it the text is continued as it is.
    ``max_new_tokens`` caps the answers that tasks let a model generate; a model with few positions is in any case given
    no more than half of them. ``metrics`` names, per task, the metric that is *the* score (``acc_norm``, or
    ``exact_match,flexible-extract`` where a task has several filters); by default it is the first that the task lists.
    ``batch_size`` is fixed and stored, since low-precision log-likelihoods depend on it. ``untrained_sentences`` lets
    IFEval do without NLTK's punkt_tab. ``choices`` records the log-probability of every choice of multiple-choice
    tasks, of which calibration is computed (docs/measures.md).

    ``suite`` and ``suite_version`` are what a named choice of all this is called in records and papers.

    lm-eval's response cache is never used: its keys do not name the checkpoint.
    """

    suite: str | None = None
    suite_version: int = Field(default=1, ge=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    include_path: str | None = None
    num_fewshot: Shots | dict[str, Shots] | None = None
    splits: dict[str, str] = Field(default_factory=dict)
    fewshot_splits: dict[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    apply_chat_template: bool = True
    max_new_tokens: int | None = Field(default=None, ge=1)
    metrics: dict[str, str] = Field(default_factory=dict)
    untrained_sentences: bool = False
    choices: bool = False

    @field_validator("tasks")
    @classmethod
    def _no_task_twice(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a task is named twice; name each once")
        return tasks

    @field_validator("include_path")
    @classmethod
    def _exists(cls, path: str | None) -> str | None:
        if path is not None:
            folder_of(path)
        return path

    def identity(self) -> dict[str, Any]:
        """The fields, with the content of the task files in place of their path, and lm-eval's version."""
        files = hash_of_folder(folder_of(self.include_path)) if self.include_path else None
        fields = {key: value for key, value in super().identity().items() if not key.startswith("suite")}
        if not self.choices:  # what is asked and scored is the same
            del fields["choices"]
        return {**fields, "include_path": files, "lm_eval": _lm_eval()}

    def check(self, data_root: Path | None = None, allow_code_execution: bool = False) -> None:
        """Raise ConfigError for what could not be run, before anything is computed.

        Names that are no task, with near matches; tasks of which ``data_root`` lacks the data set or a split, or has
        one file for what are two sets; tasks that run generated code where that is not allowed; tasks that are asked
        for twice, by way of two groups.
        """
        with quiet():
            manager, plans = self._plans(data_root)
        check_configurations([task for tasks in plans.values() for task in tasks.values()])
        owner: dict[str, str] = {}
        for entry, tasks in plans.items():
            for name, task in tasks.items():
                if name in owner:
                    raise ConfigError(
                        f"{FIELD}.tasks: {name!r} is in both {owner[name]!r} and {entry!r}; leave one of them out"
                    )
                owner[name] = entry
                if task.unsafe and not allow_code_execution:
                    raise ConfigError(
                        f"evaluation.allow_code_execution: {entry!r} runs programs that the model wrote; choose true "
                        "to allow that (in processes of their own, with limits; see docs/benchmarks.md), or leave "
                        f"{entry!r} out of {FIELD}.tasks"
                    )
                if task.needs_sentences:
                    splitter(data_root, self.untrained_sentences)
        self._check_names(manager, {*plans, *owner})

    def parts(self, data_root: Path | None = None) -> dict[str, tuple[Benchmarks, dict[str, Any]]]:
        """One of these for each of ``tasks``, with what its results depend on: all that concerns the task, and no more.

        So another task, or another number of examples for another task, leaves it as it was.
        """
        with quiet():
            _, plans = self._plans(data_root)
        parts = {}
        for entry, tasks in plans.items():
            concerned = {entry, *tasks}

            def only(values: Mapping[str, Any], concerned: set[str] = concerned) -> dict[str, Any]:
                return {name: value for name, value in sorted(values.items()) if name in concerned}

            shots = only(self.num_fewshot) if isinstance(self.num_fewshot, dict) else self.num_fewshot
            part = self.model_copy(
                update={
                    "tasks": (entry,),
                    "num_fewshot": None if shots == {} else shots,
                    "splits": only(self.splits),
                    "fewshot_splits": only(self.fewshot_splits),
                    "metrics": only(self.metrics),
                }
            )
            depends = {**part.identity(), "data": digest_of(tasks)}
            depends.pop("untrained_sentences")
            if any(task.needs_sentences for task in tasks.values()):
                depends["sentences"] = splitter(data_root, self.untrained_sentences)
            parts[entry] = (part, depends)
        return parts

    def run(
        self,
        model: Any,
        tokenizer: Any,
        seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        *,
        data_root: Path | None = None,
        allow_code_execution: bool = False,
        saved: Path | None = None,
        on_choices: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
    ) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
        """Evaluate a transformers causal language model: (scores by task, rows of benchmarks.jsonl).

        A score is {"metric", "filter", "value", "stderr", "n", "version", "num_fewshot", "metrics", "chat_template",
        "split", "fewshot_split", "filters", "first_token_ids", "truncated", "data_sha256", "packages"}: ``stderr`` is
        lm-eval's (None where it has none), ``metrics`` holds value and stderr of every metric, ``first_token_ids`` are
        the first 8 ids of the task's first request, ``truncated`` counts its requests that did not fit the model.
        Generating tasks have "max_new_tokens" {"asked", "allowed"}; those that run code have "code_execution". A group
        (such as mmlu) has a score but no rows of its own; a tag's is the mean of its tasks. A row is {"task", "metric",
        "doc_id", "value"}, with "group" where the suite names a group or tag that the task belongs to; metrics that are
        no mean of a number per document have none.

        ``seed`` draws few-shot examples and anything that a task samples. ``progress(done, total)`` counts documents of
        the task or group at hand. Finished tasks are kept in the folder ``saved``, and taken from there. With
        ``choices``, ``on_choices`` gets the rows of ``choice_rows`` of each task or group.

        Raises EvaluationError where a task fails, an outcome is not a number or a prompt starts with two BOS, and
        ConfigError where the chat template is missing or ``metrics`` names an unknown metric.
        """
        if self.apply_chat_template and not tokenizer.chat_template:
            raise ConfigError(f"{FIELD}.apply_chat_template: the tokenizer has no chat template; set it to false")
        with quiet() as loud:
            from kto_bench.evaluation.benchmarks.benchmark_run import BenchmarkRun, Settings
            from kto_bench.evaluation.benchmarks.policy_lm import PolicyLM
            from kto_bench.evaluation.generation.generate import evaluation_mode

            def told(done: int, total: int) -> None:
                with loud():
                    progress(done, total)

            manager, plans = self._plans(data_root)
            scores: dict[str, dict[str, Any]] = {}
            rows: list[dict[str, Any]] = []
            most = self.max_new_tokens
            with evaluation_mode(model):
                lm = PolicyLM(model, tokenizer, self.batch_size, chat=self.apply_chat_template, max_new_tokens=most)
                runner = BenchmarkRun(self, lm, seed, Settings(data_root, allow_code_execution, saved))
                for entry, tasks in plans.items():
                    found, lines = runner.entry(manager, entry, tasks, told)
                    scores |= found
                    rows += lines
                    on_choices(runner.choices(entry))
        return scores, rows

    def _plans(self, data_root: Path | None) -> tuple[Any, Plans]:
        """(A task manager, the plans of all tasks by entry and name)."""
        manager = manager_for(self.tasks, self.include_path)
        return manager, {entry: self._plans_of(manager, entry, data_root) for entry in self.tasks}

    def _plans_of(self, manager: Any, entry: str, data_root: Path | None) -> dict[str, TaskPlan]:
        def chosen(values: Mapping[str, Any], name: str) -> Any:
            return values.get(name, values.get(entry))

        shots = self.num_fewshot
        return {
            name: plan_task(
                name,
                config,
                shots=chosen(shots, name) if isinstance(shots, dict) else shots,
                split=chosen(self.splits, name),
                fewshot_split=chosen(self.fewshot_splits, name),
                root=data_root,
            )
            for name, config in leaves_of(manager, entry).items()
        }

    def _check_names(self, manager: Any, here: set[str]) -> None:
        """Refuse settings for names that are no task; those of tasks that are not asked for just mean nothing."""
        shots = self.num_fewshot if isinstance(self.num_fewshot, dict) else {}
        fields: dict[str, Mapping[str, Any]] = {
            "num_fewshot": shots,
            "splits": self.splits,
            "fewshot_splits": self.fewshot_splits,
            "metrics": self.metrics,
        }
        for field, values in fields.items():
            for name in values:
                if name not in here and name not in manager.task_index and not is_known(name):
                    near = ", ".join(difflib.get_close_matches(name, here, n=3)) or "none"
                    raise ConfigError(f"{FIELD}.{field}: {name!r} is no task, group or tag of lm-eval (near: {near})")
                inside = name not in here and name in manager.task_index and here & leaves_of(manager, name).keys()
                if inside and field != "metrics":  # a group within a group has a score of its own, but no settings
                    raise ConfigError(
                        f"{FIELD}.{field}: {name!r} is only a part of what {FIELD}.tasks names, and would be passed "
                        f"over; set it for its tasks one by one ({', '.join(sorted(inside)[:3])}, ...), or name "
                        f"{name!r} in {FIELD}.tasks"
                    )


@cache
def _lm_eval() -> str:
    """Its version, which is read from a file: half of the time that a plan takes for a task."""
    return version("lm-eval")
