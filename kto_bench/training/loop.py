"""The training loop: one global batch at a time, split in any way, with exact global means."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kto_bench.feedback.batches import Step, desirable_of, micro_batches
from kto_bench.feedback.tokens import TokenisedFeedback
from kto_bench.lines import append_line
from kto_bench.losses import Completions, Loss, Output
from kto_bench.training.config import TrainConfig
from kto_bench.training.device import autocast
from kto_bench.training.logprobs import completion_log_probs
from kto_bench.training.optimiser import build_optimiser
from kto_bench.training.reference import ReferenceLogProbs

Metrics = dict[str, float]
OnStep = Callable[[Metrics, dict[str, float]], None]


class TrainingDivergedError(RuntimeError):
    """A loss or a gradient that is not finite. Names the step and the ids of the batch."""


@dataclass(frozen=True)
class Cached:
    """The reference's log-probabilities: of the data's completions, and of the schedule's mismatched pairs in order."""

    matched: ReferenceLogProbs | None = None
    mismatched: ReferenceLogProbs | None = None


class Trainer:
    """Trains a policy on a schedule of steps with one loss."""

    def __init__(
        self, policy: Any, pad_id: int, data: TokenisedFeedback, loss: Loss, config: TrainConfig, cached: Cached
    ) -> None:
        """``cached`` must hold what ``loss`` says it needs."""
        self._accelerator = Accelerator()
        self._pad_id, self._data, self._loss, self._config, self._cached = pad_id, data, loss, config, cached
        self._desirable = torch.from_numpy(np.ascontiguousarray(desirable_of(data)))
        if config.gradient_checkpointing:
            policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        _without_dropout(policy)
        # Only gradient checkpointing asks for the training mode; without it nothing random can be left.
        self.policy = policy.train(config.gradient_checkpointing)

    def run(self, steps: Sequence[Step], folder: Path, on_step: OnStep) -> None:
        """Do all steps; write one line per step to ``folder/metrics.jsonl`` and its timing to ``timing.jsonl``.

        Raises TrainingDivergedError, before the weights are touched, when a step's loss or gradient is not finite.
        """
        optimiser, scheduler = build_optimiser(self.policy, self._config, len(steps))
        self.policy, optimiser = self._accelerator.prepare(self.policy, optimiser)
        offset = 0
        for number, step in enumerate(steps, start=1):
            started = time.perf_counter()
            metrics = self._step(number, step, offset, optimiser)
            offset += len(step.mismatched)
            metrics = {"step": number, "completions": number * step.units.size, **metrics}
            metrics["learning_rate"] = float(scheduler.get_last_lr()[0])
            scheduler.step()
            seconds = time.perf_counter() - started
            timing = {"step": number, "wall_seconds": seconds, "tokens_per_second": self._tokens(step) / seconds}
            append_line(folder / "metrics.jsonl", metrics)
            append_line(folder / "timing.jsonl", timing)
            on_step(metrics, timing)
        self.policy = self._accelerator.unwrap_model(self.policy)

    def _step(self, number: int, step: Step, offset: int, optimiser: torch.optim.Optimizer) -> Metrics:
        point, metrics = self._reference_point(step, offset)
        lengths = torch.tensor([len(self._data.completions[unit[0]]) for unit in step.units])
        total_weight = self._loss.weights(lengths).sum()
        loss_sum = torch.zeros((), device=self._accelerator.device)
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(2, device=self._accelerator.device))
        # Memory is bound by completions, so a unit of two counts twice.
        size = max(1, self._config.micro_batch_size // step.units.shape[1])
        for rows in micro_batches([self._unit_length(unit) for unit in step.units], size):
            output = self._forward(step.units[rows], point)
            loss = output.losses.sum() / total_weight
            self._accelerator.backward(loss)
            loss_sum += loss.detach()
            for name, (values, applies) in output.statistics.items():
                applied = applies.to(values.dtype)
                sums[name] += torch.stack([torch.where(applies.bool(), values.detach(), 0.0).sum(), applied.sum()])
        norm = self._accelerator.clip_grad_norm_(self.policy.parameters(), self._config.max_grad_norm)
        metrics = {"loss": loss_sum.item(), "grad_norm": float(norm), **metrics}
        if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
            ids = [self._data.ids[completion] for completion in step.units.ravel()]
            raise TrainingDivergedError(
                f"step {number}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; lower "
                f"train.learning_rate or look at the batch, whose ids are: {', '.join(ids)}"
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        # A class that is absent from the batch has no mean: its statistic is left out of this step rather than be NaN.
        metrics.update({name: (pair[0] / pair[1]).item() for name, pair in sums.items() if pair[1] > 0})
        return metrics

    def _forward(self, units: np.ndarray, point: Tensor | None) -> Output:
        columns = [self._completions(units[:, column]) for column in range(units.shape[1])]
        if self._loss.feedback == "binary":
            desirable = self._desirable[units[:, 0]].to(self._accelerator.device)
            return self._loss(columns[0], desirable, point)
        return self._loss(*columns)

    def _completions(self, indices: np.ndarray) -> Completions:
        """Policy and reference on completions of the data, each with its own prompt."""
        prompts = [self._data.prompts[self._data.prompt_of[index]] for index in indices]
        return self._score(prompts, indices, self._cached.matched if self._loss.needs_reference else None, indices)

    def _score(
        self,
        prompts: list[list[int]],
        indices: np.ndarray,
        cache: ReferenceLogProbs | None,
        rows: Sequence[int] | np.ndarray,
    ) -> Completions:
        completions = [self._data.completions[index] for index in indices]
        with autocast(self._accelerator.device, self._config.precision):
            policy, mask = completion_log_probs(self.policy, prompts, completions, self._pad_id)
        reference = None if cache is None else cache.rows(rows, policy.shape[1]).to(policy.device)
        return Completions(policy, mask, reference)

    @torch.no_grad()
    def _reference_point(self, step: Step, offset: int) -> tuple[Tensor | None, Metrics]:
        """KTO's reference point over the whole global batch, before any gradient of the step is computed."""
        if not self._loss.needs_kl:
            return None, {}
        pairs = step.mismatched
        parts = []
        for rows in micro_batches([self._pair_length(pair) for pair in pairs], self._config.micro_batch_size):
            prompts = [self._data.prompts[prompt] for prompt in pairs[rows, 0]]
            parts.append(self._score(prompts, pairs[rows, 1], self._cached.mismatched, offset + rows))
        point = self._loss.reference_point(_concatenate(parts))
        return point.value, {name: value.item() for name, value in point.statistics.items()}

    def _unit_length(self, unit: np.ndarray) -> int:
        return max(self._pair_length((self._data.prompt_of[index], index)) for index in unit)

    def _pair_length(self, pair: Sequence[int] | np.ndarray) -> int:
        return len(self._data.prompts[pair[0]]) + len(self._data.completions[pair[1]])

    def _tokens(self, step: Step) -> int:
        return sum(self._pair_length((self._data.prompt_of[index], index)) for index in step.units.ravel())


def _without_dropout(policy: Any) -> None:
    """Policy and reference must agree on equal weights: a loss of log 2 for DPO at the first step.

    Besides ``torch.nn.Dropout``, models keep rates of functional dropout as numbers on their modules.
    """
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name):
                setattr(module, name, 0.0)


def _concatenate(parts: list[Completions]) -> Completions:
    """Rows of several micro-batches, padded to one width."""
    width = max(part.mask.shape[1] for part in parts)

    def join(tensors: list[Tensor]) -> Tensor:
        return torch.cat([torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])

    references = [part.reference for part in parts if part.reference is not None]
    return Completions(
        join([part.policy for part in parts]),
        join([part.mask for part in parts]),
        join(references) if references else None,
    )
