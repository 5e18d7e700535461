"""The implied reward of labelled examples: what the policy, read as a reward model, says of feedback."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from kto_bench.feedback.conversions import prompt_key
from kto_bench.feedback.subsampling import IDS
from kto_bench.feedback.token_lists import lengths_of
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, FeedbackKind, FeedbackSource, Messages, Paired, read_rows
from kto_bench.losses import Loss
from kto_bench.losses.base import Completions
from kto_bench.seeds import derive
from kto_bench.training.config import TrainConfig

ROWS, SUMMARY = "implied_rewards.jsonl.gz", "implied_reward.json"
"""Files of the stage and of a record: a row for each example; what holds for all of them."""
DIGITS = 6
"""Significant digits of rewards and log-probabilities in a record: below what fp32 can tell in a sum over tokens."""
Progress = Callable[[int, int], None]
Split = Literal["heldout", "train"]


@dataclass(frozen=True)
class Example:
    """A labelled row, where it is from, and whether label noise has turned its label round."""

    row: Binary | Paired
    split: Split
    mislabelled: bool = False

    @property
    def sides(self) -> dict[str, str]:
        """Its completions by the names of their fields."""
        row = self.row
        return (
            {"completion": row.completion}
            if isinstance(row, Binary)
            else {"chosen": row.chosen, "rejected": row.rejected}
        )


@dataclass(frozen=True)
class Scored:
    """What is scored: n completions of examples, then m mismatched pairs; all with prompts of their own."""

    examples: list[Example]
    prompts: list[Messages]
    completions: list[str]
    mismatched: int
    """m."""

    @classmethod
    def of(cls, examples: Sequence[Example], *, mismatched: bool) -> Scored:
        """The completions of ``examples``, and each with the prompt of the one before where it is another prompt.

        Mismatched pairs are made of the examples that were trained on, where there are some, as training makes them.
        """
        sides = [(example, text) for example in examples for text in example.sides.values()]
        prompts, completions = [example.row.prompt for example, _ in sides], [text for _, text in sides]
        trained = [side for side in sides if side[0].split == "train"] or sides
        rotated = [trained[-1], *trained] if mismatched and trained else []
        wrong = [
            (before.row.prompt, text)
            for (before, _), (example, text) in pairwise(rotated)
            if prompt_key(before.row.prompt) != prompt_key(example.row.prompt)
        ]
        return cls(
            list(examples),
            prompts + [prompt for prompt, _ in wrong],
            completions + [text for _, text in wrong],
            len(wrong),
        )


def labelled_examples(
    feedback: Path, trained_on: Path, kind: FeedbackKind, trained_kind: FeedbackKind, rows: int
) -> list[Example]:
    """At most ``rows`` held-out rows, ``rows`` rows that were trained on as they are, and ``rows`` turned round.

    ``feedback`` and ``trained_on`` are folders of artifacts. Which rows they are follows from their numbers alone, so
    that all losses and seeds are asked about the same.
    """
    turned = _turned(trained_on / IDS)
    heldout = read_rows(feedback / "heldout.jsonl", kind)
    trained = read_rows(trained_on / "train.jsonl", trained_kind)
    as_they_are = [row for row in trained if row.id not in turned]
    wrong = [row for row in trained if row.id in turned]
    return [
        *(Example(row, "heldout") for row in _sample(heldout, rows, "heldout")),
        *(Example(row, "train") for row in _sample(as_they_are, rows, "train")),
        *(Example(row, "train", mislabelled=True) for row in _sample(wrong, rows, "mislabelled")),
    ]


def _sample(rows: Sequence[Any], most: int, name: str) -> list[Any]:
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(derive(0, "implied reward", name)).permutation(len(rows))[:most]
    return [rows[index] for index in sorted(chosen)]


def _turned(ids: Path) -> set[str]:
    """The ids of the rows whose label was turned round, of the file that names what was trained on."""
    if not ids.exists():  # nothing was altered
        return set()
    lines = gzip.decompress(ids.read_bytes()).decode().splitlines()[1:]
    return {json.loads(line.rsplit("\t", 3)[0]) for line in lines if line.endswith("\t1")}


def log_probs(
    folder: Path, policy: Any, tokenizer: Any, scored: Scored, train: TrainConfig, progress: Progress
) -> None:
    """Leave the per-token log-probabilities of ``scored`` in ``folder``, as ``reference.save_reference`` does.

    ``policy`` is on its device and stays as it is.
    """
    from kto_bench.evaluation.generation.generate import evaluation_mode
    from kto_bench.models import pad_id_of
    from kto_bench.training.logprobs import Scorer
    from kto_bench.training.reference import save_reference

    encoder = Encoder(tokenizer, **train.token_limits)
    prompts, completions = encoder.prompts(scored.prompts).ids, encoder.completions(scored.completions).ids
    with evaluation_mode(policy):
        # Padding, since sequences end to end would set the attention of a policy that is shared with other stages.
        scorer = Scorer(
            policy, pad_id_of(tokenizer), precision=train.precision, padding_free=False, max_logits=train.max_logits
        )
        save_reference(folder, scorer, prompts, completions, progress, max_tokens=train.max_tokens_per_microbatch)


def fitting(examples: Sequence[Example], tokenizer: Any, train: TrainConfig, positions: int | None) -> list[Example]:
    """The examples that a model of so many ``positions`` can score, whichever completion its prompt is joined with."""
    if positions is None:
        return list(examples)
    encoder = Encoder(tokenizer, **train.token_limits)
    prompts = lengths_of(encoder.prompts([example.row.prompt for example in examples]).ids)
    longest = [max(map(encoder.length, example.sides.values())) + 1 for example in examples]
    room = [
        min(length, train.max_completion_tokens) + prompt <= positions
        for length, prompt in zip(longest, prompts, strict=True)
    ]
    return [example for example, fits in zip(examples, room, strict=True) if fits]


def implied_rewards(
    scored: Scored,
    policy: Path,
    reference: Path | None,
    loss: Loss | None,
    metrics: Sequence[dict[str, Any]],
    source: FeedbackSource,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(The rows of ROWS, the object of SUMMARY), from what ``log_probs`` left in ``policy`` and ``reference``.

    A row is {"id", "split", "mislabelled"}, with "chosen" and "rejected" for a pair, with "label" and "completion" for
    a single completion; each side holds "reward", "log_prob" and "reference_log_prob" (nats, summed over tokens),
    "tokens", and the source's "scores" where it has some. The reward is the loss's own (``Loss.implied_rewards``); a
    loss that states none, and a start, have the policy's mean log-probability per token. The summary is {"declared",
    "reference_point", "examples"}: whether the loss states the reward, and where single completions are neither gains
    nor losses, in units of the reward, or None. ``metrics`` are those of the alignment.
    """
    count = len(scored.completions) - scored.mismatched
    both = _completions(policy, reference, range(count))
    rewards = None if loss is None else loss.implied_rewards(both)
    declared = rewards is not None
    values = (both.mean_log_prob if rewards is None else rewards).tolist()
    sides = [
        {
            "reward": _rounded(value),
            "log_prob": _rounded(log_prob),
            **({} if its is None else {"reference_log_prob": _rounded(its)}),
            "tokens": tokens,
        }
        for value, log_prob, its, tokens in zip(
            values,
            both.policy_log_prob.tolist(),
            [None] * count if reference is None else both.reference_log_prob.tolist(),
            both.lengths.tolist(),
            strict=True,
        )
    ]
    rows, following = [], iter(sides)
    for example in scored.examples:
        found: dict[str, Any] = {"id": example.row.id, "split": example.split, "mislabelled": example.mislabelled}
        if isinstance(example.row, Binary):
            found["label"] = example.row.label
        for side, text in example.sides.items():
            scores = source.scores_of(example.row.prompt, text)
            found[side] = {**next(following), **({"scores": scores} if scores else {})}
        rows.append(found)
    point = None
    if loss is not None and declared and loss.has_reference_point:
        mismatched = None
        if loss.needs_kl:
            mismatched = _completions(policy, reference, range(count, count + scored.mismatched))
        past = {name: _mean(row[name] for row in metrics if name in row) for name in loss.tracked}
        with torch.no_grad():
            nats = loss.reference_point(mismatched, {k: v for k, v in past.items() if v is not None}).value
        point = _rounded(loss.point_scale * float(nats))
    return rows, {"declared": declared, "reference_point": point, "examples": len(rows)}


def _completions(policy: Path, reference: Path | None, rows: range) -> Completions:
    from kto_bench.training.reference import ReferenceLogProbs

    lengths = np.load(policy / "lengths.npy")[rows.start : rows.stop]
    width = int(lengths.max(initial=1))
    ours, its = (
        None if folder is None else ReferenceLogProbs.load(folder).rows(list(rows), width)
        for folder in (policy, reference)
    )
    assert ours is not None
    mask = torch.arange(width)[None, :] < torch.from_numpy(lengths)[:, None]
    return Completions(ours.double(), mask, None if its is None else its.double())


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
