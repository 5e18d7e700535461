"""The prefix that a policy was trained after is the one that it is asked to continue: kept by training, checked since.

Training and generation render prompts with the same code. What may still differ is what that code reads: the chat
template and the tokenizer, which lie beside the weights as files that may be edited, converted or changed by another
version of a library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.tokens import Encoder

PREFIXES = "prefixes.json"
KEPT = 8
"""Prompts of a training that its artifact keeps."""
_READ = 256
"""Rows that are looked through for them."""
_UNLIMITED = 1 << 30


def first_prompts(rows: Path, data: TokenisedFeedback, max_prompt_tokens: int) -> dict[int, list[dict[str, str]]]:
    """The messages of the first few prompts of a file of feedback, by their index in ``data``; none that was cut."""
    with rows.open(encoding="utf-8", newline="\n") as file:
        messages = {(row := json.loads(line))["id"]: row["prompt"] for line, _ in zip(file, range(_READ), strict=False)}
    found: dict[int, list[dict[str, str]]] = {}
    for number, row_id in zip(data.prompt_of[: 2 * _READ].tolist(), data.ids, strict=False):
        if row_id in messages and len(data.prompts[number]) < max_prompt_tokens:
            found.setdefault(number, messages[row_id])
        if len(found) == KEPT:
            break
    return found


def save_prefixes(folder: Path, prompts: dict[int, list[dict[str, str]]], data: TokenisedFeedback) -> None:
    """Keep what the policy sees of ``prompts`` in training, as ids."""
    rows = [{"prompt": messages, "ids": list(map(int, data.prompts[n]))} for n, messages in prompts.items()]
    (folder / PREFIXES).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def check_prefixes(folder: Path, tokenizer: Any) -> None:
    """Raise EvaluationError where ``tokenizer`` makes other ids of a prompt than the training of the artifact saw.

    Checkpoints that were not trained here, of which nothing is known, pass.
    """
    path = folder / PREFIXES
    if not path.exists():
        return
    encoder = Encoder(tokenizer, _UNLIMITED, _UNLIMITED)
    for row in json.loads(path.read_text(encoding="utf-8")):
        trained, asked = row["ids"], encoder.prompt(tuple(row["prompt"]))
        if trained != asked:
            at = next((i for i, pair in enumerate(zip(trained, asked, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(trained), len(asked)) if at is None else at
            raise EvaluationError(
                f"evaluation: the policy in {folder} was trained after another prefix than it would be asked to "
                f"continue. They differ from token {at} on: trained {_shown(tokenizer, trained, at)}, asked "
                f"{_shown(tokenizer, asked, at)}, in the prompt {row['prompt'][-1]['content'][:80]!r}. Its chat "
                "template or tokenizer, or the library that reads them, has changed since; restore it, or delete the "
                "artifact to train again"
            )


def _shown(tokenizer: Any, ids: list[int], at: int) -> str:
    part = ids[max(0, at - 2) : at + 6]
    return f"...{part} ({tokenizer.decode(part)!r})"
