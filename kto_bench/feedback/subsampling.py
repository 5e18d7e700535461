"""What training sees of the feedback: fewer desirable or undesirable completions, or one of every prompt, and wrong
labels on purpose. Pure and seeded."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kto_bench.feedback.conversions import as_binary, prompt_key
from kto_bench.feedback.noise import with_noise
from kto_bench.feedback.types import Binary, Feedback, FeedbackError, FeedbackKind, FeedbackSource
from kto_bench.seeds import derive

IDS = "trained_on.tsv.gz"
"""The file that names the rows of a part; it goes into the record."""


def trained_kind(source: FeedbackSource) -> FeedbackKind:
    """The kind of rows that losses get: pairs of which a part is taken are single completions."""
    return "binary" if source.subsamples else source.kind()


def trained_part(feedback: Feedback, source: FeedbackSource) -> tuple[Feedback, dict[str, Any]]:
    """What losses see of ``feedback``: the part that ``source`` keeps, with the label noise it asks for; and counts."""
    counts: dict[str, Any] = {"kind": feedback.kind, "rows": len(feedback)}
    if source.subsamples:
        feedback, counts = subsample(feedback, source)
    if source.label_noise > 0:
        feedback, counts["label_noise"] = with_noise(feedback, source.label_noise, source.keep_seed)
    return feedback, counts


def write_ids(path: Path, feedback: Feedback, turned: Iterable[str]) -> None:
    """One line for each row, compressed: its id and prompt's digest, its label, and whether noise turned that round.

    The label is empty for pairs. The bytes depend on the rows alone.
    """
    noisy = set(turned)
    lines = ["id\tprompt_sha256\tdesirable\tturned\n"]
    for row in feedback.rows:
        digest = hashlib.sha256(prompt_key(row.prompt).encode()).hexdigest()[:12]
        label = str(int(row.label)) if isinstance(row, Binary) else ""
        lines.append(f"{json.dumps(row.id, ensure_ascii=False)}\t{digest}\t{label}\t{int(row.id in noisy)}\n")
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def subsample(feedback: Feedback, source: FeedbackSource) -> tuple[Feedback, dict[str, Any]]:
    """What ``source`` keeps of ``feedback`` for training, as binary rows in their order, and the counts of it.

    Pairs are taken apart: the chosen completion is desirable, the rejected one is not. Where one completion of every
    prompt is kept, that is drawn first; ``keep_desirable`` and ``keep_undesirable`` are shares of the completions of
    either class that are left then, rounded to a whole number and at least one. Draws follow from ``keep_seed`` and the
    texts alone, so the order of the rows is nothing to them, and what a share keeps is part of what a larger one keeps.
    Demonstrations were refused before (``config``). Raises
    FeedbackError where no completion of a class was there to begin with.
    """
    before: list[Binary] = as_binary(feedback).rows
    place = {row.id: _place(row, source.keep_seed) for row in before}
    kept = before
    if source.one_completion_per_prompt:
        first: dict[str, Binary] = {}
        for row in sorted(kept, key=lambda row: place[row.id]):
            first.setdefault(prompt_key(row.prompt), row)
        chosen = {row.id for row in first.values()}
        kept = [row for row in kept if row.id in chosen]
    chosen = set()
    for label, share in ((True, source.keep_desirable), (False, source.keep_undesirable)):
        ordered = sorted((row for row in kept if row.label == label), key=lambda row: place[row.id])
        if not ordered:
            word = "desirable" if label else "undesirable"
            raise FeedbackError(f"feedback.keep_{word}: there is no {word} completion to take {share:g} of")
        chosen |= {row.id for row in ordered[: max(1, round(share * len(ordered)))]}
    kept = [row for row in kept if row.id in chosen]
    counts = {"kind": "binary", "rows": len(kept), "before": _counts(before), "kept": _counts(kept)}
    return Feedback("binary", kept), counts


def _place(row: Binary, seed: int) -> tuple[str, str]:
    """Where a completion is in a random order: by its text, and by its id among equal ones."""
    text = f"{derive(seed, 'subsample')}\x1f{prompt_key(row.prompt)}\x1f{row.completion}"
    return hashlib.sha256(text.encode()).hexdigest(), row.id


def _counts(rows: list[Binary]) -> dict[str, int]:
    desirable = sum(row.label for row in rows)
    prompts = len({prompt_key(row.prompt) for row in rows})
    return {"desirable": desirable, "undesirable": len(rows) - desirable, "prompts": prompts}
