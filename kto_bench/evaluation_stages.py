"""The stages that evaluate one checkpoint: completions, their judgements, benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from kto_bench.config import Config
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Feedback, read_rows
from kto_bench.lines import read_lines, write_lines
from kto_bench.models import load_policy, load_tokenizer
from kto_bench.screen import Advance
from kto_bench.seeds import derive
from kto_bench.store import Stage

Folders = dict[str, Path]
Describe = Callable[..., Stage]
"""``Stages._stage``: a stage from its name, settings, inputs and build."""


class EvaluationStages:
    """What is asked of the checkpoint that ``policy`` makes. Describing the stages computes nothing."""

    def __init__(self, config: Config, policy: Stage, feedback: Stage, describe: Describe) -> None:
        """``feedback`` holds the prompts that were held out of training."""
        self._config, self._policy, self._feedback, self._describe = config, policy, feedback, describe

    @property
    def all(self) -> list[Stage]:
        """In the order in which they are fetched."""
        return [stage for stage in (self.generate, self.judge, self.benchmark) if stage is not None]

    @cached_property
    def generate(self) -> Stage | None:
        """Completions of the evaluation prompts."""
        config, prompts, split = self._config, self._config.evaluation.prompts, self._config.evaluation.split
        if prompts is None:
            return None
        generation, seed = config.evaluation.generation, config.seed("sampling")
        settings = {
            "prompts": prompts.identity(),
            **({} if split == "all" else {"split": split}),
            "generation": generation.identity(),
            "seed": seed,
            "max_prompt_tokens": config.train.max_prompt_tokens,
        }
        inputs = {"policy": self._policy, **({"feedback": self._feedback} if prompts.uses_heldout else {})}

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation import generate
            from kto_bench.training.device import pick_device

            kind = config.feedback.kind()
            heldout = read_rows(inputs["feedback"] / "heldout.jsonl", kind) if prompts.uses_heldout else []
            encoder = Encoder(load_tokenizer(inputs["policy"]), **config.train.token_limits)
            model = load_policy(inputs["policy"]).to(pick_device())
            questions = prompts.part(Feedback(kind, heldout), split)
            rows = generate(model, encoder, questions, generation, derive(seed, "generate"), advance)
            write_lines(folder / "completions.jsonl", rows)

        return self._describe("generate", settings, inputs, build)

    @cached_property
    def judge(self) -> Stage | None:
        """Head to head of the completions against the reference completions."""
        judge = self._config.evaluation.judge
        if judge is None or self.generate is None:
            return None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.head_to_head import judge as judge_completions

            rows = read_lines(inputs["generate"] / "completions.jsonl")
            judgements, summary = judge_completions(rows, judge, folder, progress=advance)
            write_lines(folder / "judgements.jsonl", judgements)
            (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")

        return self._describe("judge", {"judge": judge.identity()}, {"generate": self.generate}, build)

    @cached_property
    def benchmark(self) -> Stage | None:
        """Benchmarks through lm-eval."""
        benchmarks, seed = self._config.evaluation.benchmarks, self._config.seed("sampling")
        if benchmarks is None:
            return None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.training.device import pick_device

            model = load_policy(inputs["policy"]).to(pick_device())
            scores, rows = benchmarks.run(model, load_tokenizer(inputs["policy"]), derive(seed, "benchmark"), advance)
            write_lines(folder / "benchmarks.jsonl", rows)
            (folder / "scores.json").write_text(json.dumps(scores, indent=2), encoding="utf-8")

        settings = {"benchmarks": benchmarks.identity(), "seed": seed}
        return self._describe("benchmark", settings, {"policy": self._policy}, build)
