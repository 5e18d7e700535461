"""Standard benchmarks through lm-eval's Python interface."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from kto_bench.component import Component, ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.quiet import quiet

PACKAGE_PREFIX = "pkg:"
BOOTSTRAP_ITERATIONS = 1000
"""Resamples behind the standard errors of metrics that are no means (F1, BLEU, ...)."""


class Benchmarks(Component):
    """Which lm-eval tasks are run, and how.

    ``tasks`` are names of tasks, groups or tags. ``include_path`` adds task files: a folder, or ``pkg:package.module``
    for the folder of an importable package. ``num_fewshot`` None leaves each task's own number (and a task that fixes 0
    stays at 0); ``limit`` takes the first documents of each task. ``apply_chat_template`` asks each question as a user
    turn of the checkpoint's chat template, encoded as in training; without it the text is continued as it is.
    ``metrics`` names, per task, the metric that is *the* score (``acc_norm``, or ``exact_match,flexible-extract`` where
    a task has several filters); by default it is the first that the task lists. ``batch_size`` is fixed and stored,
    since low-precision log-likelihoods depend on it.

    lm-eval's response cache is never used: its keys do not name the checkpoint.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    include_path: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    apply_chat_template: bool = True
    metrics: dict[str, str] = Field(default_factory=dict)

    @field_validator("include_path")
    @classmethod
    def _exists(cls, path: str | None) -> str | None:
        if path is not None:
            _folder(path)
        return path

    def identity(self) -> dict[str, Any]:
        """The fields, with the content of the task files in place of their path, and lm-eval's version."""
        files = _hash_of_folder(_folder(self.include_path)) if self.include_path else None
        return {**super().identity(), "include_path": files, "lm_eval": version("lm-eval")}

    def check(self) -> None:
        """Raise ConfigError for names that are no task, with near matches.

        Instant for tasks of ``include_path``; lm-eval's own index takes 5 to 20 seconds, once per process.
        """
        with quiet():
            self._task_manager()

    def run(
        self, model: Any, tokenizer: Any, seed: int, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
        """Evaluate a transformers causal language model: (scores by task, rows of benchmarks.jsonl).

        A score is {"metric", "filter", "value", "stderr", "n", "version", "num_fewshot", "metrics", "chat_template",
        "first_token_ids", "truncated", "lm_eval"}: ``stderr`` is lm-eval's (None where it has none), ``metrics`` holds
        value and stderr of every metric, ``first_token_ids`` are the first 8 ids of the first request, ``truncated``
        counts over all tasks the requests that did not fit the model. A group (such as mmlu) has a score but no rows of
        its own. A row is {"task", "metric", "doc_id", "value"}; metrics without a number per document have none.

        ``seed`` draws few-shot examples and anything that a task samples. ``progress(done, total)`` counts requests.

        Raises EvaluationError where a task fails, an outcome is not a number or a prompt starts with two BOS, and
        ConfigError where the chat template is missing or ``metrics`` names an unknown metric.
        """
        if self.apply_chat_template and not tokenizer.chat_template:
            raise ConfigError(
                "evaluation.benchmarks.apply_chat_template: the tokenizer has no chat template; set it to false"
            )
        results, lm = self._evaluate(model, tokenizer, seed, progress)
        rows = [row for task, samples in results["samples"].items() for row in _rows(task, samples)]
        scores = {}
        for task, metrics in results["results"].items():
            score = self._score(task, metrics)
            if score is None:
                continue
            samples = results["samples"].get(task, [])
            scores[task] = {
                **score,
                "n": _count(task, score, samples, results),
                "version": results["versions"].get(task),
                "num_fewshot": results["n-shot"].get(task),
                "chat_template": self.apply_chat_template,
                "first_token_ids": lm.context_ids(_first_context(samples[0]))[:8] if samples else None,
                "truncated": lm.truncated,
                "lm_eval": version("lm-eval"),
            }
        return scores, rows

    def _evaluate(
        self, model: Any, tokenizer: Any, seed: int, progress: Callable[[int, int], None]
    ) -> tuple[dict[str, Any], Any]:
        # lm_eval.evaluate rather than simple_evaluate, which also runs pip and git each time to describe the machine
        # (2 of the 3 seconds that three small tasks take) and lets git write to the console.
        with quiet() as loud:
            import lm_eval
            from transformers import set_seed

            from kto_bench.evaluation.generation import evaluation_mode
            from kto_bench.evaluation.policy_lm import PolicyLM

            def told(done: int, total: int) -> None:
                with loud():
                    progress(done, total)

            manager = self._task_manager()
            set_seed(seed)
            try:
                with evaluation_mode(model):
                    lm = PolicyLM(model, tokenizer, self.batch_size, chat=self.apply_chat_template, progress=told)
                    tasks = manager.load(list(self.tasks))
                    self._set_fewshot(tasks["tasks"], seed)
                    results = lm_eval.evaluate(
                        lm,
                        tasks,
                        limit=self.limit,
                        bootstrap_iters=BOOTSTRAP_ITERATIONS,
                        log_samples=True,
                        apply_chat_template=self.apply_chat_template,
                        fewshot_as_multiturn=True,
                    )
            except (EvaluationError, ConfigError):
                raise
            except Exception as error:
                raise EvaluationError(f"benchmarks {', '.join(self.tasks)}: {type(error).__name__}: {error}") from error
        return results, lm

    def _set_fewshot(self, tasks: dict[str, Any], seed: int) -> None:
        for task in tasks.values():
            own = task.get_config("num_fewshot")
            if own != 0:  # lm-eval's rule: a task that says 0 stays at 0
                wanted = own if self.num_fewshot is None else self.num_fewshot
                task.set_config(key="num_fewshot", value=wanted or 0)
            task.set_fewshot_seed(seed=seed)

    def _task_manager(self) -> Any:
        from lm_eval.tasks import TaskManager

        if self.include_path:
            manager = TaskManager(include_path=_folder(self.include_path), include_defaults=False)
            if set(self.tasks) <= set(manager.all_tasks):
                return manager
        # lm-eval's own index is thousands of files, so it is read only where it is needed.
        manager = TaskManager(include_path=_folder(self.include_path)) if self.include_path else _default_manager()
        known = set(manager.all_tasks)
        unknown = [name for name in self.tasks if name not in known]
        if unknown:
            hints = [(name, difflib.get_close_matches(name, known, n=4)) for name in unknown]
            told = "; ".join(f"{name!r} (near: {', '.join(near) or 'none'})" for name, near in hints)
            raise ConfigError(f"evaluation.benchmarks.tasks: no such task, group or tag of lm-eval: {told}")
        return manager

    def _score(self, task: str, results: dict[str, Any]) -> dict[str, Any] | None:
        """One task's score from lm-eval's {"acc,none": .., "acc_stderr,none": ..}; None for a group without one."""
        metrics: dict[str, dict[str, Any]] = {}
        for key, value in results.items():
            metric, comma, filter_ = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                stderr = results.get(f"{metric}_stderr,{filter_}")
                metrics[key] = {
                    "value": float(value),
                    "stderr": float(stderr) if isinstance(stderr, int | float) else None,
                }
        if not metrics:
            return None
        wanted = self.metrics.get(task)
        found = [key for key in metrics if wanted is None or wanted in (key, key.partition(",")[0])]
        if not found:
            raise ConfigError(f"evaluation.benchmarks.metrics.{task}: {wanted!r} is not one of {', '.join(metrics)}")
        metric, _, filter_ = found[0].partition(",")
        if math.isnan(metrics[found[0]]["value"]):
            raise EvaluationError(f"benchmark {task}: {found[0]} is not a number")
        filters = {key.partition(",")[2] for key in metrics}
        name = metric if len(filters) == 1 else found[0]
        return {"metric": name, "filter": filter_, **metrics[found[0]], "metrics": metrics}


@functools.cache
def _default_manager() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _rows(task: str, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    several_filters = len({sample["filter"] for sample in samples}) > 1
    rows = []
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        for metric in sample["metrics"]:
            value = sample[metric]
            if not _is_number(value):
                continue
            if math.isnan(value):
                raise EvaluationError(f"benchmark {task}: document {sample['doc_id']}: {metric} is not a number")
            name = f"{metric},{sample['filter']}" if several_filters else metric
            rows.append({"task": task, "metric": name, "doc_id": sample["doc_id"], "value": float(value)})
    return rows


def _count(task: str, score: dict[str, Any], samples: list[dict[str, Any]], results: dict[str, Any]) -> int:
    """The documents behind a score: those for which the task gives an outcome for its metric."""
    if not samples:
        return sum(results["n-samples"][leaf]["effective"] for leaf in _leaves(task, results["group_subtasks"]))
    metric = score["metric"].partition(",")[0]
    return sum(sample["filter"] == score["filter"] and metric in sample["metrics"] for sample in samples)


def _leaves(name: str, children: dict[str, list[str]]) -> list[str]:
    if name not in children:
        return [name]
    return [leaf for child in children[name] for leaf in _leaves(child, children)]


def _first_context(sample: dict[str, Any]) -> str:
    context: str = sample["arguments"][0][0]
    return context


def _is_number(value: Any) -> bool:
    return hasattr(value, "__float__") and not hasattr(value, "__len__")


def _folder(include_path: str) -> Path:
    """The folder of task files that ``include_path`` means."""
    if not include_path.startswith(PACKAGE_PREFIX):
        folder = Path(include_path)
        if not folder.is_dir():
            raise ValueError("there is no such folder; give a folder of task files or pkg:package.module")
        return folder
    name = include_path.removeprefix(PACKAGE_PREFIX)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"there is no importable package {name!r}; give pkg:package.module or a folder")
    return Path(next(iter(spec.submodule_search_locations)))


def _hash_of_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
