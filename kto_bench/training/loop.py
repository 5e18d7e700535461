"""The training loop: one global batch at a time, split in any way, with exact global means."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import Step, desirable_of
from kto_bench.feedback.token_lists import lengths_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.lines import append_line, read_lines
from kto_bench.losses import Completions, Loss, Output
from kto_bench.preemption import Preempted, Preemption
from kto_bench.training.carried import MEANS, SYNCED, Cached, RunningMeans, load_synced, save_synced
from kto_bench.training.config import TrainConfig
from kto_bench.training.kept import KeptPolicies
from kto_bench.training.logprobs import Scorer
from kto_bench.training.microbatches import Round, cut
from kto_bench.training.optimiser import build_optimiser
from kto_bench.training.processes import Processes, decoder_layers
from kto_bench.training.reference import ReferenceLogProbs
from kto_bench.training.saves import SaveError, Saves
from kto_bench.training.span import STATE, Span, go_on

Metrics = dict[str, float]
OnStep = Callable[[Metrics, dict[str, float]], None]
FILES = ("metrics.jsonl", "timing.jsonl")


class TrainingDivergedError(RuntimeError):
    """A loss or a gradient that is not finite. Names the step and the ids of the batch."""


@dataclass(frozen=True)
class Safety:
    """What a run needs to survive: where its states are saved, who says that it must stop, whom to tell."""

    saves: Saves
    preemption: Preemption
    say: Callable[[str], None]


class Trainer:
    """Trains a policy on a schedule of steps with one loss, in one process or as one of several.

    Every process holds the data and the schedule, and does its share of each step. How a step is cut into passes and
    dealt to processes changes no number beyond rounding: losses are divided by their weight in the whole global batch,
    and the reference point is read off the whole batch.
    """

    def __init__(
        self,
        policy: Any,
        pad_id: int,
        data: TokenisedFeedback,
        loss: Loss,
        config: TrainConfig,
        cached: Cached,
        seed: int = 0,
    ) -> None:
        """``policy`` on the CPU; ``cached`` must hold what ``loss`` says it needs, unless the reference is synced with
        the policy; ``seed`` is that of a value head."""
        self._processes = Processes()
        self._data, self._loss, self._config, self._reference = data, loss, config, cached
        self._running = RunningMeans(loss.tracked)
        self._desirable = torch.from_numpy(np.ascontiguousarray(desirable_of(data)))
        self._prompt_tokens, self._completion_tokens = lengths_of(data.prompts), lengths_of(data.completions)
        if config.gradient_checkpointing:
            policy.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        _without_dropout(policy)
        # Only gradient checkpointing asks for the training mode; without it nothing random can be left.
        policy.train(config.gradient_checkpointing)
        if config.sharding == "none":  # sharded weights move layer by layer: no device has room for all of them
            policy.to(self._processes.device)
        self.policy = policy
        self._scorer = Scorer(
            policy,
            pad_id,
            precision=config.precision,
            padding_free=config.padding_free,
            max_logits=config.max_logits,
            device=self._processes.device,
            value_head_seed=seed if loss.needs_values else None,
        )
        if config.compile:
            _compile_layers(policy)
        self._score = self._processes.wrap(self._scorer, config.sharding)

    @property
    def module(self) -> torch.nn.Module:
        """The scorer around the policy, wrapped if several processes train it."""
        return self._score

    def run(
        self,
        steps: Sequence[Step],
        folder: Path,
        on_step: OnStep,
        safety: Safety | None = None,
        kept: KeptPolicies | None = None,
        span: Span | None = None,
        before: Path | None = None,
    ) -> None:
        """Do all steps; write one line per step to ``folder/metrics.jsonl`` and its timing to ``timing.jsonl``.

        With ``safety`` it goes on from the last saved state (``on_step`` hears of the steps before it, too), saves one
        every ``save_minutes``, and on preemption saves and raises Preempted. ``kept`` hears of every step that is done.
        Raises TrainingDivergedError, before the weights are touched, when a step's loss or gradient is not finite.

        With a ``span``, ``steps`` are those of the span (or none, where there was nothing to learn from), and training
        goes on from what the span before left in the artifact ``before``, with its optimiser, schedule and metrics.
        """
        span = span or Span(0, len(steps), len(steps))
        first, last = span.first, span.last
        optimiser, scheduler = build_optimiser(self._score, self._config, span.total)
        done = safety.saves.load(self._score, optimiser, scheduler, folder) if safety else 0
        if not done and before is not None:
            go_on(before, span, self._score, optimiser, scheduler, folder)
            done = first
        if kept is not None:
            kept.check(done)
        sync_every = self._loss.sync_every
        if done and self._loss.tracked:
            self._running.read(folder)
        if done > first and sync_every:  # before that, the reference of what is synced is given
            self._reference = load_synced(folder)
        if done and self._processes.first:
            for metrics, timing in zip(*(read_lines(folder / name) for name in FILES), strict=True):
                on_step(metrics, timing)
        offsets = np.cumsum([0, *(len(step.mismatched) for step in steps)])
        if sync_every and not done:
            self._sync(steps[:sync_every], 0)
        saved = time.monotonic()
        for number, step in enumerate(steps[done - first :], start=done + 1):
            started = time.perf_counter()
            metrics = {"step": number, "completions": number * step.units.size}
            found, timing = self._gradients(number, step, int(offsets[number - first - 1]))
            if sync_every and number % sync_every == 0:
                ahead = number - first
                self._sync(steps[ahead : ahead + sync_every], int(offsets[ahead]))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            metrics |= {**found, "learning_rate": float(scheduler.get_last_lr()[0])}
            scheduler.step()
            seconds = time.perf_counter() - started
            timing = {
                "step": number,
                "wall_seconds": seconds,
                "tokens_per_second": timing["real_positions"] / seconds,
                "padding_share": 1 - timing["real_positions"] / timing["computed_positions"],
            }
            if self._processes.first:
                append_line(folder / "metrics.jsonl", metrics)
                append_line(folder / "timing.jsonl", timing)
                on_step(metrics, timing)
            if kept is not None:
                kept.after(number)
            if safety is None:
                continue
            late = time.monotonic() - saved > 60 * self._config.save_minutes and number < last
            stop, due = self._processes.any(safety.preemption.requested, late)
            if not (stop or due):
                continue
            outcome = f"step {number} of {span.total} is saved; the same command goes on from there"
            try:
                safety.saves.save(number, self._score, optimiser, scheduler, self._write_files(folder))
            except SaveError as error:
                # The state before it is still there, and hours of training are worth more than a save.
                outcome = f"step {number} of {span.total} was not saved: {error}"
                if not stop:
                    safety.say(f"{outcome}; training goes on")
            saved = time.monotonic()
            if stop:
                raise Preempted(outcome)
        if not steps:
            self._let_pass(range(first + 1, last + 1), optimiser, scheduler, folder, kept)
        if span.is_last:
            return
        files = [path for path in self._write_files(folder) if path.name != SYNCED]
        Saves(folder / STATE, lambda text: None).save(last, self._score, optimiser, scheduler, files)

    def _let_pass(
        self, numbers: Iterable[int], optimiser: Any, scheduler: Any, folder: Path, kept: KeptPolicies | None
    ) -> None:
        """Steps of a span without any example: no update, but the schedule goes on."""
        for number in numbers:
            optimiser.step()  # without gradients it does nothing, and the schedule asks for it
            scheduler.step()
            if kept is not None:
                kept.after(number)
        if self._processes.first:
            for name in FILES:
                (folder / name).touch()

    def _write_files(self, folder: Path) -> list[Path]:
        """The files in ``folder`` that training goes on from, besides weights and optimiser. Raises SaveError."""
        names = [*FILES]
        problem: OSError | None = None
        try:
            if self._loss.tracked:
                names.append(MEANS)
                if self._processes.first:
                    self._running.write(folder)
            if self._loss.sync_every:
                names.append(SYNCED)
                if self._processes.first:
                    save_synced(folder, self._reference)
        except OSError as error:
            problem = error
        if any(self._processes.any(problem is not None)):  # all of them save, or none
            raise SaveError(f"{folder} cannot be written to by the first process: {problem}") from problem
        return [folder / name for name in names]

    def _gradients(self, number: int, step: Step, offset: int) -> tuple[Metrics, dict[str, float]]:
        """Metrics and counts of a step whose gradients are left on the parameters, clipped."""
        self._scorer.reset_counts()
        point, point_metrics = self._reference_point(step, offset)
        total_weight = self._loss.weights(torch.from_numpy(self._completion_tokens[step.units[:, 0]])).sum()
        names, sums = self._accumulate_gradients(step, point, float(total_weight))
        counts = torch.tensor(
            [self._scorer.real_positions, self._scorer.computed_positions], dtype=sums.dtype, device=sums.device
        )
        totals = self._processes.sum(torch.cat([sums, counts])).tolist()
        norm = self._processes.clip(self._score.parameters(), self._config.max_grad_norm)
        metrics = {"loss": totals[0], "grad_norm": norm, **point_metrics}
        if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
            ids = [self._data.ids[completion] for completion in step.units.ravel()]
            raise TrainingDivergedError(
                f"step {number}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; lower "
                f"train.learning_rate or look at the batch, whose ids are: {', '.join(ids)}"
            )
        for index, name in enumerate(names):
            total, count = totals[1 + 2 * index : 3 + 2 * index]
            # A class that is absent from the batch has no mean: its statistic is left out rather than be NaN.
            if count > 0:
                metrics[name] = total / count
                self._running.add(name, total, count)
        return metrics, {"real_positions": totals[-2], "computed_positions": totals[-1]}

    def _accumulate_gradients(self, step: Step, point: Tensor | None, total_weight: float) -> tuple[list[str], Tensor]:
        """Forward and backward over this process's share of ``step``.

        Returns the names of the statistics, and (1 + 2 names,) float64 sums of this process: the loss, then of each
        statistic the values and the number of examples.
        """
        units, width = step.units, step.units.shape[1]
        tokens = (self._prompt_tokens[self._data.prompt_of[units]] + self._completion_tokens[units]).sum(axis=1)
        # A limit on completions counts a pair as two.
        size = None if self._config.micro_batch_size is None else max(1, self._config.micro_batch_size // width)
        rounds = self._cut(tokens, size)
        names: list[str] = []
        sums: Tensor | None = None
        for index, dealt in enumerate(rounds):
            mine = dealt[self._processes.rank]
            # Every process takes part in every round, since gradients and sharded weights are exchanged in it; one that
            # was dealt nothing does a unit that counts for nothing.
            self._scorer.counting = counts = len(mine) > 0
            with self._processes.backward_context(self._score, last=index == len(rounds) - 1):
                output = self._forward(units[mine] if counts else units[:1], point)
                loss = output.losses.sum() / total_weight
                # Wrapped policies average gradients over processes; the loss of the batch is a sum.
                (loss * (self._processes.count if counts else 0)).backward()
            if sums is None:
                names = list(output.statistics)
                sums = torch.zeros(1 + 2 * len(names), dtype=torch.float64, device=loss.device)
            if counts:
                parts = [loss.detach()]
                for values, applies in output.statistics.values():
                    parts += [torch.where(applies.bool(), values.detach(), 0.0).sum(), applies.sum()]
                sums += torch.stack([part.to(sums.dtype) for part in parts])
        assert sums is not None, "a step has at least one unit"
        return names, sums

    def _forward(self, units: np.ndarray, point: Tensor | None) -> Output:
        """The loss of (n, k) units: one pass over all their completions, then a column for each place in the unit."""
        indices = units.ravel()
        prompts = [self._data.prompts[prompt] for prompt in self._data.prompt_of[indices]]
        policy, mask, *values = self._score(prompts, [self._data.completions[index] for index in indices])
        reference = None
        if self._loss.needs_reference and self._reference.matched is not None:
            reference = self._reference.matched.rows(indices, policy.shape[1]).to(policy.device)
        parts = [policy, mask, reference, *values]
        k = units.shape[1]
        columns = [
            Completions(*[None if part is None else part[place::k] for part in parts])  # type: ignore[arg-type]
            for place in range(k)
        ]
        if self._loss.feedback == "binary":
            return self._loss(columns[0], self._desirable[units[:, 0]].to(policy.device), point)
        return self._loss(*columns)

    def _reference_point(self, step: Step, offset: int) -> tuple[Tensor | None, Metrics]:
        """The loss's reference point over the whole global batch, before any gradient of the step is computed."""
        if not self._loss.has_reference_point:
            return None, {}
        mismatched = self._mismatched(step, offset) if self._loss.needs_kl else None
        point = self._loss.reference_point(mismatched, self._running.means)
        value = point.value.to(self._processes.device)
        return value, {name: value.item() for name, value in point.statistics.items()}

    def _mismatched(self, step: Step, offset: int) -> Completions:
        """The mismatched pairs of a step, the first of which is number ``offset`` of the schedule."""
        policy, lengths = self._score_everywhere(step.mismatched)
        mask = torch.arange(policy.shape[1]) < torch.from_numpy(lengths)[:, None]
        reference = None
        if self._loss.needs_reference and self._reference.mismatched is not None:
            rows = offset + np.arange(len(lengths))
            reference = self._reference.mismatched.rows(rows, policy.shape[1]).to(policy.device)
        return Completions(policy, mask.to(policy.device), reference)

    def _sync(self, steps: Sequence[Step], offset: int) -> None:
        """Let the policy as it is be the reference of ``steps``: all that they need of it is its log-probabilities, so
        no second copy of the weights is kept. ``offset`` is the number of their first mismatched pair."""
        if not steps:
            return
        matched = np.unique(np.concatenate([step.units.ravel() for step in steps]))
        mismatched = np.concatenate([step.mismatched for step in steps])
        pairs = np.concatenate([np.stack([self._data.prompt_of[matched], matched], axis=1), mismatched])
        log_probs, lengths = self._score_everywhere(pairs)
        rows = [row[:length].numpy() for row, length in zip(log_probs.cpu(), lengths, strict=True)]

        def part(chosen: slice, names: np.ndarray) -> ReferenceLogProbs | None:
            return ReferenceLogProbs(np.concatenate(rows[chosen]), lengths[chosen], names) if len(names) else None

        self._reference = Cached(
            part(slice(len(matched)), matched),
            part(slice(len(matched), None), offset + np.arange(len(mismatched))),
        )

    @torch.no_grad()
    def _score_everywhere(self, pairs: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """(m, t) log-probabilities of the policy as it is, 0 off the completions, and their (m,) lengths, of (m, 2)
        pairs (prompt, completion). The processes share the work, and all have the whole result."""
        device = self._processes.device
        lengths = self._completion_tokens[pairs[:, 1]]
        policy = torch.zeros(len(pairs), lengths.max(), device=device)
        rounds = self._cut(self._prompt_tokens[pairs[:, 0]] + lengths, self._config.micro_batch_size)
        for dealt in rounds:
            mine = dealt[self._processes.rank]
            self._scorer.counting = len(mine) > 0
            rows = mine if len(mine) else np.array([0])
            prompts = [self._data.prompts[prompt] for prompt in pairs[rows, 0]]
            scored = self._score(prompts, [self._data.completions[index] for index in pairs[rows, 1]])[0]
            if len(mine):
                policy[mine, : scored.shape[1]] = scored
        # Everyone's rows, in the order of the schedule, so that the mean is taken in the same order by all.
        self._processes.release(self._score)
        return self._processes.sum(policy), lengths

    def _cut(self, tokens: np.ndarray, max_items: int | None) -> list[Round]:
        return cut(
            tokens,
            max_tokens=self._config.max_tokens_per_microbatch,
            max_items=max_items,
            processes=self._processes.count,
        )


def _compile_layers(policy: Any) -> None:
    """Compile each decoder layer by itself: they share one compiled graph, so compiling takes seconds, not minutes."""
    layers = decoder_layers(policy)
    if not layers:
        raise ConfigError(
            f"train.compile: true is not possible for a {policy.config.model_type} model, which does not say what its "
            "layers are; choose false"
        )
    for layer in layers:
        layer.compile(dynamic=True)


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
