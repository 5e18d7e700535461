"""Which examples each optimiser step sees: a pure function of the data and the seed, fixed before training.

Because the whole schedule is known beforehand, the reference's log-probabilities can be computed once, for the
mismatched pairs of KTO's reference point too, and shared by every run with the same reference, data and seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kto_bench.component import ConfigError
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.types import FeedbackKind
from kto_bench.seeds import derive

Indices = np.ndarray


@dataclass(frozen=True)
class Step:
    """One global batch.

    ``units``: (n, k) indices of completions; k = 2 for paired feedback (chosen, rejected), else 1.
    ``mismatched``: (m, 2) pairs (index of a prompt, index of a completion to a *different* prompt) from which a loss
    estimates its reference point; m = 0 where the loss needs none.
    """

    units: Indices
    mismatched: Indices


def units_of(data: TokenisedFeedback, kind: FeedbackKind) -> Indices:
    """The examples that a loss for ``kind`` of feedback sees in ``data``: (n, k) indices of completions.

    Paired data serve a binary loss as single completions and demonstrations as the chosen ones; binary data serve
    demonstrations as the desirable ones. Any other combination was refused before (``conversions.can_serve``).
    """
    every = np.arange(len(data.completions))
    if data.kind == "paired":
        pairs = every.reshape(-1, 2)
        return {"paired": pairs, "binary": every[:, None], "demonstrations": pairs[:, :1]}[kind]
    if data.kind == "binary" and kind == "demonstrations":
        return every[desirable_of(data)][:, None]
    return every[:, None]


def desirable_of(data: TokenisedFeedback) -> Indices:
    """(completions,) bool: whether each completion is desirable; the chosen one of a pair is."""
    if data.desirable is not None:
        return data.desirable
    if data.kind == "paired":
        return np.arange(len(data.completions)) % 2 == 0
    return np.ones(len(data.completions), dtype=bool)


def step_count(examples: int, units_per_step: int, epochs: float, steps: int | None) -> int:
    """Number of optimiser steps: ``steps`` if given, else ``epochs`` passes with the last incomplete batch dropped."""
    return steps if steps is not None else int(examples * epochs) // units_per_step


def schedule(
    units: Indices,
    prompt_of: Indices,
    *,
    completions_per_step: int,
    epochs: float,
    steps: int | None,
    seed: int,
    mismatched: bool,
) -> list[Step]:
    """Cut a seeded stream of shuffled epochs into steps of ``completions_per_step`` completions.

    ``units`` is (n, k) from ``units_of``; ``prompt_of`` (completions,) names each completion's prompt. The order
    depends on ``seed`` and on nothing else about the run, so losses of one kind see the same data in the same order.
    Raises ConfigError when the data are too few for a single step.
    """
    if len(units) == 0:
        raise ConfigError(
            "feedback: it holds no example for this loss; supervised fine-tuning needs chosen, desirable or "
            "demonstrated completions"
        )
    per_step = completions_per_step // units.shape[1]
    count = step_count(len(units), per_step, epochs, steps)
    if count == 0:
        raise ConfigError(
            f"train.completions_per_step: {completions_per_step} is more than one pass over the data holds "
            f"({len(units)} examples of {units.shape[1]} completion(s), epochs {epochs}); lower it, or set train.steps"
        )
    wanted = count * per_step
    passes = -(-wanted // len(units))
    order = np.concatenate(
        [np.random.default_rng(derive(seed, "data order", epoch)).permutation(len(units)) for epoch in range(passes)]
    )[:wanted]
    return _steps(units[order].reshape(count, per_step, units.shape[1]), prompt_of, completions_per_step, mismatched)


def consecutive(
    units: Indices, prompt_of: Indices, *, completions_per_step: int, steps: int, mismatched: bool
) -> list[Step]:
    """``steps`` steps over ``units`` as they stand, from the front again where there are too few of them.

    Of feedback whose order was drawn before it was collected. Without any unit there is no step.
    """
    if len(units) == 0 or steps == 0:
        return []
    per_step = completions_per_step // units.shape[1]
    order = np.arange(steps * per_step) % len(units)
    return _steps(units[order].reshape(steps, per_step, units.shape[1]), prompt_of, completions_per_step, mismatched)


def _steps(batches: Indices, prompt_of: Indices, completions_per_step: int, mismatched: bool) -> list[Step]:
    """(count, per step, k) units as steps."""
    empty = np.empty((0, 2), dtype=np.int64)
    result = []
    for batch in batches:
        pairs = mismatch(batch.ravel(), prompt_of) if mismatched else empty
        if mismatched and len(pairs) == 0:
            raise ConfigError(
                f"train.completions_per_step: a step of {completions_per_step} holds completions of one prompt only, "
                "and the loss's reference point needs completions of different prompts; raise it, or add prompts"
            )
        result.append(Step(batch, pairs))
    return result


def mismatch(completions: Indices, prompt_of: Indices) -> Indices:
    """Pair every completion of a batch with the prompt of another one: (m, 2) pairs (prompt, completion).

    Every completion serves at most once and every prompt as often as it occurs, and no completion meets its own prompt
    (HALOs and TRL shift by one, which pairs neighbours that share a prompt). Completions sorted by prompt are rotated
    by the size of the largest group, which separates all groups as long as none holds more than half of the batch;
    where one does, only those that find a different prompt are kept. A batch with a single prompt gives m = 0.
    """
    ordered = completions[np.argsort(prompt_of[completions], kind="stable")]
    prompts = prompt_of[ordered]
    largest = np.unique(prompts, return_counts=True)[1].max()
    rotated = np.roll(prompts, largest)
    different = rotated != prompts
    return np.stack([rotated[different], ordered[different]], axis=1)
