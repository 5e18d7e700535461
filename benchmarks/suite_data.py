"""The rows as the suite sees them: token ids, and the schedule that both sides follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from work import CHECKPOINT, COLUMNS, PEER_IDS, PEER_ROWS, ROWS, Work, write_json

from kto_bench.feedback.batches import Step, schedule, units_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.tokenising import tokenise
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Feedback, FeedbackKind, read_rows
from kto_bench.models import load_tokenizer

KINDS: dict[str, FeedbackKind] = {"kto": "binary", "dpo": "paired", "sft": "demonstrations"}


def load(folder: Path, work: Work) -> tuple[TokenisedFeedback, list[Step]]:
    """The rows as token ids, and the counted steps (without those of the warm-up)."""
    kind = KINDS[work.loss]
    data = tokenise(
        Feedback(kind, read_rows(folder / ROWS, kind)), Encoder(load_tokenizer(folder / CHECKPOINT), 1024, 1024)
    )
    steps = schedule(
        units_of(data, kind),
        data.prompt_of,
        completions_per_step=work.completions_per_step,
        epochs=1.0,
        steps=work.steps,
        seed=work.seed,
        mismatched=work.loss == "kto",
    )
    return data, steps


def with_warmup(steps: list[Step], work: Work) -> list[Step]:
    """The steps with the first ones once more in front of them."""
    return [*steps[: work.warmup_steps], *steps]


def write_peer_files(folder: Path, work: Work) -> None:
    """Write the rows in the order of the schedule in the peer's format, and the ids that it should train on."""
    data, steps = load(folder, work)
    sides = COLUMNS[work.loss]
    with (folder / ROWS).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    ordered: list[dict[str, Any]] = []
    ids: list[dict[str, list[int]]] = []
    for unit in np.concatenate([step.units for step in with_warmup(steps, work)]):
        row = rows[unit[0] // len(sides)]
        answers = {side: [{"role": "assistant", "content": row[side]}] for side in sides}
        label = {"label": row["label"]} if "label" in row else {}
        ordered.append({"prompt": row["prompt"], **answers, **label})
        completions = {side: list(data.completions[index]) for side, index in zip(sides, unit, strict=True)}
        ids.append({"prompt": list(data.prompts[data.prompt_of[unit[0]]]), **completions})
    (folder / PEER_ROWS).write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")
    write_json(folder / PEER_IDS, ids)


def token_counts(data: TokenisedFeedback, steps: list[Step]) -> tuple[int, int]:
    """Real tokens of the steps' examples: (prompts and completions, completions alone)."""
    completions = prompts = 0
    for step in steps:
        for index in step.units.ravel():
            completions += len(data.completions[index])
            prompts += len(data.prompts[data.prompt_of[index]])
    return prompts + completions, completions
