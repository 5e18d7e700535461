"""What a training sees: the rows of its feedback as the policy's token ids, in steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import Step, consecutive, desirable_of, schedule, units_of
from kto_bench.feedback.report import data_report, summary
from kto_bench.feedback.token_lists import lengths_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.tokenising import tokenise_file
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import FeedbackKind
from kto_bench.models import load_tokenizer, positions_of
from kto_bench.training.budget import Costs, within
from kto_bench.training.config import TrainConfig
from kto_bench.training.controls import Controls, add_to_tokenizer, conditioned
from kto_bench.training.span import Span

REPORT = "report.json"


def tokenise_into(
    folder: Path,
    inputs: Mapping[str, Path],
    train: TrainConfig,
    kind: FeedbackKind,
    rows: str,
    controls: Controls | None,
    progress: Callable[[int, int], None],
) -> list[str]:
    """Leave the file ``rows`` of inputs["feedback"], which holds ``kind``, in ``folder`` as token ids with a report.

    The tokenizer is that of inputs["tokenizer"], a checkpoint, with ``controls`` where there are some. Returns the
    report as lines for the screen. Raises ConfigError where a sequence is longer than the model has positions.
    """
    tokenizer = load_tokenizer(inputs["tokenizer"])
    if controls is not None:
        add_to_tokenizer(tokenizer, controls)
    encoder = Encoder(tokenizer, **train.token_limits)
    data = tokenise_file(inputs["feedback"] / rows, kind, encoder, folder, progress)
    _check_positions(int(data.lengths.max(initial=0)), inputs["tokenizer"], train)
    report = data_report(
        folder, encoder, lambda data: data if controls is None else conditioned(data, tokenizer, controls)
    )
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    known = json.loads((inputs["feedback"] / "data.json").read_text(encoding="utf-8"))
    return summary(report, known.get("repetitions") if kind != "demonstrations" else None)


def tokenised(inputs: Mapping[str, Path], train: TrainConfig, *, mismatched: bool = False) -> TokenisedFeedback:
    """The feedback in inputs["tokens"], memory-mapped, for the policy in inputs["policy"].

    ``mismatched``: completions will be joined with any prompt. Raises ConfigError where a sequence is longer than the
    model has positions.
    """
    data = TokenisedFeedback.load(inputs["tokens"])
    longest = int(data.lengths.max(initial=0))
    if mismatched:
        longest = sum(int(lengths_of(side).max(initial=0)) for side in (data.prompts, data.completions))
    _check_positions(longest, inputs["policy"], train)
    return data


def _check_positions(longest: int, checkpoint: Path, train: TrainConfig) -> None:
    room = positions_of(checkpoint)
    if room is not None and longest > room:
        raise ConfigError(
            f"train.max_prompt_tokens, train.max_completion_tokens: {train.max_prompt_tokens} and "
            f"{train.max_completion_tokens} let through sequences of {longest} tokens, and the model has {room} "
            "positions; lower them"
        )


def class_counts(data: TokenisedFeedback, kind: FeedbackKind) -> tuple[int, int]:
    """How many desirable and undesirable completions a loss for ``kind`` of feedback sees."""
    desirable = desirable_of(data)[units_of(data, kind)]
    return int(desirable.sum()), int((~desirable).sum())


def steps_of(
    data: TokenisedFeedback,
    kind: FeedbackKind,
    train: TrainConfig,
    costs: Costs,
    seed: int,
    *,
    mismatched: bool,
    span: Span | None = None,
) -> list[Step]:
    """The steps of a training: as many as its settings say, or as its budget pays for; or those of ``span`` alone.

    ``data`` are then what this span sees, in the order in which it sees them.
    """
    units = units_of(data, kind)
    if span is not None:
        return consecutive(
            units,
            data.prompt_of,
            completions_per_step=train.completions_per_step,
            steps=span.steps,
            mismatched=mismatched,
        )

    def first(steps: int | None) -> list[Step]:
        return schedule(
            units,
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
