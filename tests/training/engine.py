"""A small training job for tests of the engine: pairs of random tokens with uneven lengths, and every loss."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny import tiny_model

from kto_bench.feedback.batches import Step, schedule, units_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.losses import Loss
from kto_bench.training.carried import Cached
from kto_bench.training.config import TrainConfig
from kto_bench.training.logprobs import Scorer
from kto_bench.training.loop import Safety, Trainer
from kto_bench.training.reference import ReferenceLogProbs, save_reference

SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "completions_per_step": 8,
    "warmup_fraction": 0.0,
    "schedule": "constant",
}


def data_of(pairs: int = 8) -> TokenisedFeedback:
    """Pairs of random tokens with uneven lengths."""
    random = np.random.default_rng(0)
    prompts = [[1, *random.integers(7, 64, size=random.integers(1, 9)).tolist()] for _ in range(pairs)]
    completions = [[*random.integers(7, 64, size=random.integers(1, 12)).tolist(), 2] for _ in range(2 * pairs)]
    return TokenisedFeedback(
        kind="paired",
        prompts=prompts,
        prompt_of=np.repeat(np.arange(pairs), 2),
        completions=completions,
        desirable=None,
        ids=[f"row{i // 2}" for i in range(2 * pairs)],
        truncated={},
    )


def steps_of(data: TokenisedFeedback, loss: Loss, steps: int = 10) -> list[Step]:
    return schedule(
        units_of(data, loss.feedback),
        data.prompt_of,
        completions_per_step=8,
        epochs=1,
        steps=steps,
        seed=0,
        mismatched=loss.needs_kl,
    )


def cached(folder: Path, data: TokenisedFeedback, steps: list[Step], reference: Any = None) -> Cached:
    """The log-probabilities of ``reference``, or of the tiny model, as the stages make them."""

    def save(name: str, prompts: list[list[int]], completions: list[list[int]]) -> ReferenceLogProbs:
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_reference(
            folder / name, Scorer(reference or tiny_model(), 0), prompts, completions, lambda done, total: None
        )
        if dist.is_initialized():  # the first process writes, for all
            dist.barrier()
        return ReferenceLogProbs.load(folder / name)

    matched = save("matched", [data.prompts[i] for i in data.prompt_of], data.completions)
    pairs = [pair for step in steps for pair in step.mismatched]
    if not pairs:
        return Cached(matched)
    return Cached(
        matched, save("mismatched", [data.prompts[p] for p, _ in pairs], [data.completions[c] for _, c in pairs])
    )


@dataclass(frozen=True)
class Trajectory:
    """The metrics of every step, and the weights after the last."""

    metrics: list[dict[str, float]]
    timing: list[dict[str, float]]
    weights: dict[str, torch.Tensor]


class Job:
    """One loss's data, steps and cached reference, trained in different ways."""

    def __init__(self, folder: Path, loss: Loss, steps: int = 10) -> None:
        self.folder, self.loss, self.data = folder, loss, data_of()
        self.steps = steps_of(self.data, loss, steps)
        self.cached = cached(folder / "reference", self.data, self.steps)

    def trainer(self, policy: Any = None, **changes: Any) -> Trainer:
        config = TrainConfig(**{**SETTINGS, **changes})
        return Trainer(policy or tiny_model(), 0, self.data, self.loss, config, self.cached)

    def train(self, name: str, safety: Safety | None = None, **changes: Any) -> Trajectory:
        out = self.folder / name
        out.mkdir(parents=True, exist_ok=True)
        trainer = self.trainer(**changes)
        trainer.run(self.steps, out, lambda metrics, timing: None, safety)
        return Trajectory(rows(out / "metrics.jsonl"), rows(out / "timing.jsonl"), dict(trainer.policy.state_dict()))


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(one: Trajectory, other: Trajectory, tolerance: float = 1e-5) -> None:
    """Loss, gradient norm and statistics of every step, and the weights, to ``tolerance``.

    One weight in a thousand may differ by ten times as much: AdamW divides a gradient near zero by its own size, which
    magnifies rounding.
    """
    assert [sorted(row) for row in one.metrics] == [sorted(row) for row in other.metrics]
    for left, right in zip(one.metrics, other.metrics, strict=True):
        # Where policy and reference agree, whether a margin of 0 counts as right is a matter of rounding.
        skipped = {"rewards/accuracy"} if left["step"] == 1 else set()
        for name in left.keys() - skipped:
            np.testing.assert_allclose(right[name], left[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert one.weights.keys() == other.weights.keys()
    beyond = 0
    for name, weights in one.weights.items():
        allowed = tolerance * (1 + weights.abs())
        difference = (other.weights[name] - weights).abs()
        assert (difference <= 10 * allowed).all(), name
        beyond += int((difference > allowed).sum())
    assert beyond <= sum(map(torch.numel, one.weights.values())) / 1000
