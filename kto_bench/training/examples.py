"""What a training sees: the rows of its feedback as the policy's token ids, in steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import Step, desirable_of, schedule, units_of
from kto_bench.feedback.tokens import Encoder, TokenisedFeedback, tokenise
from kto_bench.feedback.types import Feedback, FeedbackKind, read_rows
from kto_bench.models import load_tokenizer, positions_of
from kto_bench.training.budget import Costs, within
from kto_bench.training.config import TrainConfig


def tokenised(
    inputs: Mapping[str, Path],
    train: TrainConfig,
    kind: FeedbackKind,
    rows: str,
    tokenizer: Any = None,
    *,
    mismatched: bool = False,
) -> TokenisedFeedback:
    """The file ``rows`` of inputs["feedback"], which holds ``kind``, as the policy in inputs["policy"] sees it.

    ``tokenizer``: the policy's, where it is not its own. ``mismatched``: completions will be joined with any prompt.
    Raises ConfigError where a sequence is longer than the model has positions.
    """
    feedback = Feedback(kind, read_rows(inputs["feedback"] / rows, kind))
    tokenizer = tokenizer or load_tokenizer(inputs["policy"])
    data = tokenise(feedback, Encoder(tokenizer, **train.token_limits))
    longest = max(
        (len(data.prompts[prompt]) + len(c) for prompt, c in zip(data.prompt_of, data.completions, strict=True)),
        default=0,
    )
    if mismatched:
        longest = max(map(len, data.prompts), default=0) + max(map(len, data.completions), default=0)
    room = positions_of(inputs["policy"])
    if room is not None and longest > room:
        raise ConfigError(
            f"train.max_prompt_tokens, train.max_completion_tokens: {train.max_prompt_tokens} and "
            f"{train.max_completion_tokens} let through sequences of {longest} tokens, and the model has {room} "
            "positions; lower them"
        )
    return data


def class_counts(data: TokenisedFeedback, kind: FeedbackKind) -> tuple[int, int]:
    """How many desirable and undesirable completions a loss for ``kind`` of feedback sees."""
    desirable = desirable_of(data)[units_of(data, kind)]
    return int(desirable.sum()), int((~desirable).sum())


def steps_of(
    data: TokenisedFeedback, kind: FeedbackKind, train: TrainConfig, costs: Costs, seed: int, *, mismatched: bool
) -> list[Step]:
    """The steps of a training: as many as its settings say, or as its budget pays for."""

    def first(steps: int | None) -> list[Step]:
        return schedule(
            units_of(data, kind),
            data.prompt_of,
            completions_per_step=train.completions_per_step,
            epochs=train.epochs or 1.0,
            steps=steps,
            seed=seed,
            mismatched=mismatched,
        )

    if train.budget is None or train.fixed_steps is not None:
        return first(train.fixed_steps)
    return within(train.budget, costs, first)
