"""The stages that evaluate one checkpoint: completions, their judgements, benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from kto_bench.config import Config
from kto_bench.evaluation.benchmarks.choices import CHOICES
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.question_sets.question_set import QuestionSet
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Feedback, read_rows
from kto_bench.lines import read_lines, write_lines
from kto_bench.models import load_policy, load_tokenizer
from kto_bench.screen import Advance
from kto_bench.seeds import derive
from kto_bench.store import Stage, saved_beside

TOKENS = "tokens.jsonl"
"""The token ids behind the completions."""
Folders = dict[str, Path]
Describe = Callable[..., Stage]
"""``Stages.describe``: a stage from its name, settings, inputs and build."""


class EvaluationStages:
    """What is asked of the checkpoint that ``policy`` makes. Describing the stages computes nothing."""

    def __init__(
        self,
        config: Config,
        policy: Stage,
        feedback: Stage,
        describe: Describe,
        step: int | None = None,
        reference: Stage | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``feedback`` holds the prompts that were held out of training.

        With a ``step`` it is the checkpoint that ``policy`` kept after that step of its training; after step 0 that is
        ``policy`` itself, which is then the start. With a ``reference`` the policy's divergence from it is measured.
        ``say`` is told what judging will cost before it begins.
        """
        self._config, self._policy, self._feedback, self._describe = config, policy, feedback, describe
        self._step, self._reference, self._say = step, reference, say
        self._of_step = {"step": step} if step else {}

    @property
    def all(self) -> list[Stage]:
        """In the order in which they are fetched."""
        stages = (self.generate, self.divergence, self.judge, self.statistics, *self.benchmarks)
        return [stage for stage in stages if stage is not None]

    @cached_property
    def generate(self) -> Stage | None:
        """Completions of the evaluation prompts."""
        config, prompts, split = self._config, self._config.evaluation.prompts, self._config.evaluation.split
        if prompts is None:
            return None
        generation, seed = config.evaluation.generation, config.seed("sampling")
        limits = config.train.token_limits
        if generation.max_prompt_tokens is not None:
            limits = {**limits, "max_prompt_tokens": generation.max_prompt_tokens}
        if self._question_set:
            self._question_set.check_files(judged=config.evaluation.judge is not None)
        settings = {
            "prompts": prompts.identity(),
            **({} if split == "all" else {"split": split}),
            "generation": generation.identity(),
            "seed": seed,
            "max_prompt_tokens": limits["max_prompt_tokens"],
            **self._of_step,
        }
        inputs = {"policy": self._policy, **({"feedback": self._feedback} if prompts.uses_heldout else {})}

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation.backends import backend_for
            from kto_bench.evaluation.generation.generate import generate
            from kto_bench.evaluation.generation.prefix import check_prefixes

            checkpoint = self._checkpoint(inputs)
            check_prefixes(inputs["policy"], load_tokenizer(checkpoint))
            kind = config.feedback.given.kind()
            heldout = read_rows(inputs["feedback"] / "heldout.jsonl", kind) if prompts.uses_heldout else []
            questions = prompts.part(Feedback(kind, heldout), split)
            encoder = Encoder(load_tokenizer(checkpoint), **limits)
            saved = saved_beside(folder) / TOKENS
            backend = backend_for(generation, checkpoint, limits["max_prompt_tokens"])
            rows, answers = generate(backend, encoder, questions, generation, derive(seed, "generate"), advance, saved)
            write_lines(folder / TOKENS, map(asdict, answers))
            write_lines(folder / "completions.jsonl", rows)

        return self._describe("generate", settings, inputs, build, part=self._part())

    @cached_property
    def divergence(self) -> Stage | None:
        """How far the policy has moved from the reference, on its own completions."""
        generate, start = self.generate, self._reference
        if start is None or generate is None or self._step == 0:
            return None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation.divergence import divergences
            from kto_bench.evaluation.generation.loaded import loaded

            policy, _ = loaded(self._checkpoint(inputs))
            reference = load_policy(inputs["reference"]).to(policy.device)
            answers = read_lines(inputs["generate"] / TOKENS)
            write_lines(folder / "kl.jsonl", divergences(policy, reference, answers, advance))

        inputs = {"generate": generate, "policy": self._policy, "reference": start}
        return self._describe("kl", self._of_step, inputs, build, part=self._part())

    @cached_property
    def judge(self) -> Stage | None:
        """Head to head of the completions against the reference completions."""
        judge, questions = self._config.evaluation.judge, self._question_set
        if judge is None or self.generate is None:
            return None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.judges.head_to_head import judge as judge_completions

            rows = read_lines(inputs["generate"] / "completions.jsonl")
            judge_rows = questions.judge if questions else judge_completions
            judgements, summary = judge_rows(rows, judge, folder, progress=advance, say=self._say)
            write_lines(folder / "judgements.jsonl", judgements)
            (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")

        inputs = {"generate": self.generate}
        settings = {"judge": judge.identity(), **(questions.judging_identity() if questions else {})}
        return self._describe("judge", settings, inputs, build, part=self._part())

    @cached_property
    def statistics(self) -> Stage | None:
        """What the authors of a published set of questions count from its judgements, such as controlled win rates."""
        questions, judge = self._question_set, self._config.evaluation.judge
        if questions is None or judge is None or self.generate is None or self.judge is None:
            return None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            rows = read_lines(inputs["generate"] / "completions.jsonl")
            judgements = read_lines(inputs["judge"] / "judgements.jsonl")
            statistics = questions.statistics(rows, judgements, judge)
            (folder / "statistics.json").write_text(json.dumps(statistics, indent=2), encoding="utf-8")

        settings = {"statistics": questions.statistics_identity(), "judge": judge.name}
        inputs = {"generate": self.generate, "judge": self.judge}
        return self._describe("statistics", settings, inputs, build, part=self._part())

    @cached_property
    def benchmarks(self) -> list[Stage]:
        """Benchmarks through lm-eval: a stage per task or group of the suite, so that adding one runs only that."""
        evaluation, seed = self._config.evaluation, self._config.seed("sampling")
        if evaluation.benchmarks is None:
            return []
        parts = evaluation.benchmarks.parts(evaluation.data_root)
        return [self._benchmark(task, part, depends, seed) for task, (part, depends) in parts.items()]

    def _benchmark(self, task: str, benchmarks: Benchmarks, depends: dict[str, Any], seed: int) -> Stage:
        evaluation = self._config.evaluation

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation.loaded import loaded

            choices: list[dict[str, Any]] = []
            scores, rows = benchmarks.run(
                *loaded(self._checkpoint(inputs)),
                derive(seed, "benchmark"),
                advance,
                data_root=evaluation.data_root,
                allow_code_execution=evaluation.allow_code_execution,
                saved=saved_beside(folder),
                on_choices=choices.extend,
            )
            write_lines(folder / "benchmarks.jsonl", rows)
            if choices:
                write_lines(folder / CHOICES, choices)
            (folder / "scores.json").write_text(json.dumps(scores, indent=2), encoding="utf-8")

        settings = {"benchmarks": depends, "seed": seed, **self._of_step}
        return self._describe("benchmark", settings, {"policy": self._policy}, build, part=self._part(task))

    def _checkpoint(self, inputs: Folders) -> Path:
        """The folder of the checkpoint that is evaluated."""
        return inputs["policy"] / step_folder(self._step) if self._step else inputs["policy"]

    @property
    def _question_set(self) -> QuestionSet | None:
        prompts = self._config.evaluation.prompts
        return prompts if isinstance(prompts, QuestionSet) else None

    def _part(self, name: str = "") -> str:
        """What tells a stage from its like in one run: ``name``, and the step of the checkpoint where there is one."""
        at = "" if self._step is None else step_folder(self._step)
        return "@".join(filter(None, [name, at]))


def step_folder(step: int) -> str:
    """What the checkpoint that was kept after ``step`` is called: a folder of its artifact, a part of a stage."""
    return f"step-{step}"
