"""Run planned tasks on one policy, task by task, so that what is finished survives a kill."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval
from transformers import set_seed

from kto_bench.component import ConfigError
from kto_bench.evaluation.benchmarks.choices import choice_rows
from kto_bench.evaluation.benchmarks.code_execution import CODE_EVAL
from kto_bench.evaluation.benchmarks.policy_lm import PolicyLM
from kto_bench.evaluation.benchmarks.task_loading import load
from kto_bench.evaluation.benchmarks.task_plan import TaskPlan
from kto_bench.evaluation.benchmarks.task_scores import (
    count_of,
    filters_of,
    group_score,
    packages,
    rows_of,
    score_of,
    tag_score,
)
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.store import write_atomically

if TYPE_CHECKING:
    from kto_bench.evaluation.benchmarks.suite import Benchmarks

BOOTSTRAP_ITERATIONS = 1000
"""Resamples behind the standard errors of metrics that are no means (F1, BLEU, ...)."""
Scores = dict[str, dict[str, Any]]
Rows = list[dict[str, Any]]


def _told(progress: Callable[[int, int], None], before: int, size: int, total: int, part: int, of: int) -> None:
    """A task's share of requests as documents among those of all tasks."""
    progress(before + size * part // max(of, 1), total)


@dataclass(frozen=True)
class Settings:
    """What is not of the tasks: where local data lie, whether code may be run, where finished tasks are kept."""

    data_root: Path | None = None
    allow_code_execution: bool = False
    saved: Path | None = None


class BenchmarkRun:
    """One policy asked the tasks of ``benchmarks``."""

    def __init__(self, benchmarks: Benchmarks, lm: PolicyLM, seed: int, settings: Settings) -> None:
        self._benchmarks, self._lm, self._seed, self._settings = benchmarks, lm, seed, settings
        self._choices: dict[str, Rows] = {}

    def choices(self, entry: str) -> Rows:
        """The rows of ``choice_rows`` of a task, group or tag that ``entry`` was asked; none unless they are wanted."""
        return self._choices.get(entry, [])

    def entry(
        self, manager: Any, entry: str, plans: Mapping[str, TaskPlan], progress: Callable[[int, int], None]
    ) -> tuple[Scores, Rows]:
        """A task, group or tag of lm-eval: the scores of its tasks and groups, and the rows of its tasks.

        ``progress`` counts documents. Raises EvaluationError naming the task that failed.
        """
        settings = self._settings
        try:
            loaded = load(manager, entry, plans, settings.data_root, self._benchmarks.untrained_sentences)
            sizes = {name: self._size(task) for name, task in loaded["tasks"].items()}
        except (EvaluationError, ConfigError):
            raise
        except Exception as error:
            raise EvaluationError(f"benchmark {entry}: {type(error).__name__}: {error}") from error
        total, done = sum(sizes.values()), 0
        found = {}
        for name, task in loaded["tasks"].items():
            self._lm.on_progress = partial(_told, progress, done, sizes[name], total)
            found[name] = self._kept(name) or self._leaf(name, task, plans[name], entry)
            done += sizes[name]
            progress(done, total)
        self._choices[entry] = [row for one in found.values() for row in one.get("choices", [])]
        return self._together(entry, loaded, found)

    def _leaf(self, name: str, task: Any, plan: TaskPlan, entry: str) -> dict[str, Any]:
        """Ask one task; {"raw": lm-eval's metrics, "score", "rows"} as plain values."""
        # lm_eval.evaluate rather than simple_evaluate, which also runs pip and git each time to describe the machine
        # (2 of the 3 seconds that three small tasks take) and lets git write to the console.
        lm, chat = self._lm, self._benchmarks.apply_chat_template
        set_seed(self._seed)  # for each task, so that one that is taken up again draws what it would have drawn
        task.set_fewshot_seed(seed=self._seed)
        lm.truncated, lm.new_tokens = 0, None
        CODE_EVAL.networks.clear()
        try:
            results: Any = lm_eval.evaluate(
                lm,
                {"tasks": {name: task}, "groups": {}, "group_map": {}},
                limit=self._benchmarks.limit,
                bootstrap_iters=BOOTSTRAP_ITERATIONS,
                log_samples=True,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
                confirm_run_unsafe_code=self._settings.allow_code_execution,
            )
        except (EvaluationError, ConfigError):
            raise
        except Exception as error:
            raise EvaluationError(f"benchmark {name}: {type(error).__name__}: {error}") from error
        samples = results["samples"][name]
        raw = results["results"][name]
        rows = rows_of(name, samples, raw)
        wanted = self._benchmarks.metrics.get(name, self._benchmarks.metrics.get(entry))
        score = score_of(name, raw, wanted)
        if score is None:
            raise EvaluationError(f"benchmark {name}: it has no metric")
        score |= {
            "n": count_of(score, samples),
            "version": results["versions"].get(name),
            "num_fewshot": plan.shots,
            "chat_template": chat,
            "split": plan.scored,
            "fewshot_split": plan.examples,
            "filters": filters_of(vars(task.config)),
            "first_token_ids": lm.context_ids(samples[0]["arguments"][0][0])[:8],
            "truncated": lm.truncated,
            "data_sha256": plan.digest,
            "packages": packages(),
            "lm_eval": packages()["lm-eval"],
        }
        if lm.new_tokens is not None:
            score["max_new_tokens"] = dict(zip(("asked", "allowed"), lm.new_tokens, strict=True))
        if plan.unsafe:
            limits = {"seconds": CODE_EVAL.seconds, "megabytes": CODE_EVAL.megabytes}
            score["code_execution"] = {"network": sorted(CODE_EVAL.networks), **limits}
        kept = {"raw": raw, "score": score, "rows": rows}
        if self._benchmarks.choices:
            kept["choices"] = choice_rows(name, task, samples)
        if self._settings.saved is not None:
            self._settings.saved.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file(name), json.dumps(kept, default=float))  # metrics may be NumPy's numbers
        return kept

    def _together(
        self, entry: str, loaded: Mapping[str, Any], found: Mapping[str, dict[str, Any]]
    ) -> tuple[Scores, Rows]:
        scores = {name: one["score"] for name, one in found.items()}
        raw = {name: one["raw"] for name, one in found.items()}
        for name, group in loaded.get("groups", {}).items():
            score = score_of(name, group.aggregate(raw), self._benchmarks.metrics.get(name))
            if score is not None:
                leaves = [scores[task.task_name] for task in group.get_all_tasks()]
                scores[name] = group_score(score, group.version, leaves)
        if entry not in found and entry not in loaded.get("groups", {}):
            score = tag_score([one["score"] for one in found.values()])
            if score is not None:
                scores[entry] = score
        rows = [row if name == entry else {**row, "group": entry} for name, one in found.items() for row in one["rows"]]
        return scores, rows

    def _size(self, task: Any) -> int:
        limit = self._benchmarks.limit
        return min(len(task.eval_docs), limit) if limit else len(task.eval_docs)

    def _kept(self, name: str) -> dict[str, Any] | None:
        if self._settings.saved is None or not self._file(name).is_file():
            return None
        kept: dict[str, Any] = json.loads(self._file(name).read_text(encoding="utf-8"))
        return kept

    def _file(self, name: str) -> Path:
        assert self._settings.saved is not None
        return self._settings.saved / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.json"
