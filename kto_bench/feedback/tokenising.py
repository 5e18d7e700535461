"""From rows to token ids: chunk by chunk, on all cores where there are many, into Arrow files."""

from __future__ import annotations

import gc
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kto_bench.feedback.tokenised import COMPLETION_FIELDS, COMPLETIONS, PROMPT_FIELDS, PROMPTS, TokenisedFeedback
from kto_bench.feedback.tokens import Cut, Encoder
from kto_bench.feedback.types import Feedback, FeedbackError, FeedbackKind, Messages, Row, iter_rows
from kto_bench.helpers import available, helpers

CHUNK = 512
"""Rows in one call of the tokenizer, and in one batch of the files; between calls ``progress`` is told."""
MANY = 10_000
"""Rows from which on the cores share the work: for fewer, starting processes is not worth it."""

Progress = Callable[[int, int], None]
Batches = tuple[pa.RecordBatch, pa.RecordBatch]
_worker: dict[str, Encoder] = {}


def tokenise(feedback: Feedback, encoder: Encoder, progress: Progress | None = None) -> TokenisedFeedback:
    """Encode all rows in memory. ``progress`` is called with (rows done, rows in all)."""
    prompts, completions = _schemas(feedback.kind)
    batches = list(_batches(feedback.rows, feedback.kind, encoder, 1, len(feedback), progress))
    return TokenisedFeedback.of(
        pa.Table.from_batches([first for first, _ in batches], prompts),
        pa.Table.from_batches([second for _, second in batches], completions),
    )


def tokenise_file(
    rows: Path, kind: FeedbackKind, encoder: Encoder, folder: Path, progress: Progress, workers: int | None = None
) -> TokenisedFeedback:
    """Encode the file ``rows`` (of ``types.write_rows``) into two Arrow files of ``folder``, and map these into memory.

    A chunk at a time is in memory, for each of ``workers`` processes (None: one per core that this process may use if
    there are many rows, else none). Raises FeedbackError naming the row that the chat template or tokenizer refuses.
    """
    total = _count(rows)
    workers = workers or (cores() if total >= MANY else 1)
    schemas = _schemas(kind)
    with (
        pa.OSFile(str(folder / PROMPTS), "wb") as prompts_file,
        pa.OSFile(str(folder / COMPLETIONS), "wb") as completions_file,
        pa.ipc.new_file(prompts_file, schemas[0]) as prompts,
        pa.ipc.new_file(completions_file, schemas[1]) as completions,
    ):
        for first, second in _batches(iter_rows(rows, kind), kind, encoder, workers, total, progress):
            prompts.write_batch(first)
            completions.write_batch(second)
    return TokenisedFeedback.load(folder)


def cores() -> int:
    """How many threads this process may use: its share (OMP_NUM_THREADS, which launchers set), or all of its cores."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    if share.isdigit() and int(share):
        return int(share)
    return available()


@dataclass(frozen=True)
class _Chunk:
    """Some rows: their prompts that are new, and their completions."""

    prompts: list[Messages]
    prompt_rows: list[str]
    texts: list[str]
    columns: dict[str, list[Any]]
    """Of the completions: what needs no tokenizer."""
    rows: int


def _schemas(kind: FeedbackKind) -> tuple[pa.Schema, pa.Schema]:
    return PROMPT_FIELDS, COMPLETION_FIELDS.with_metadata({"kind": kind})


def _batches(
    rows: Iterable[Row], kind: FeedbackKind, encoder: Encoder, workers: int, total: int, progress: Progress | None
) -> Iterator[Batches]:
    """Arrow batches of prompts and completions, in the order of the rows."""
    done = 0
    for chunk, prompts, completions in _encoded(_chunks(rows, kind), encoder, workers):
        first = {"ids": prompts.ids.to_arrow(), "whole": prompts.whole.astype(np.int32)}
        second = {"ids": completions.ids.to_arrow(), "whole": completions.whole.astype(np.int32), **chunk.columns}
        one, two = _schemas(kind)
        yield _batch(first, one), _batch(second, two)
        done += chunk.rows
        if progress is not None:
            progress(done, total)


def _batch(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _chunks(rows: Iterable[Row], kind: FeedbackKind) -> Iterator[_Chunk]:
    sides = {"paired": ("chosen", "rejected")}.get(kind, ("completion",))
    positions: dict[bytes, int] = {}
    rows = iter(rows)
    while part := list(islice(rows, CHUNK)):
        new: list[Row] = []
        prompt_of = []
        for row in part:
            key = _digest(row.prompt)
            if key not in positions:
                positions[key] = len(positions)
                new.append(row)
            prompt_of.append(positions[key])
        texts = [getattr(row, side) for row in part for side in sides]
        desirable = [side != "rejected" and getattr(row, "label", True) for row in part for side in sides]
        columns: dict[str, list[Any]] = {
            "prompt": [position for position in prompt_of for _ in sides],
            "desirable": desirable,
            "row": [row.id for row in part for _ in sides],
            "source": [row.source for row in part for _ in sides],
        }
        yield _Chunk([row.prompt for row in new], [row.id for row in new], texts, columns, len(part))


def _digest(prompt: Messages) -> bytes:
    """Equal for equal prompts only, and smaller."""
    text = "".join(f"{message['role']}{len(message['content'])}:{message['content']}" for message in prompt)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _encoded(chunks: Iterator[_Chunk], encoder: Encoder, workers: int) -> Iterator[tuple[_Chunk, Cut, Cut]]:
    if workers == 1:
        for chunk in chunks:
            yield chunk, *_encode(encoder, chunk.prompts, chunk.prompt_rows, chunk.texts)
        return
    waiting: deque[tuple[_Chunk, Future[tuple[Cut, Cut]]]] = deque()
    with _pool(encoder, workers) as pool:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_work, chunk.prompts, chunk.prompt_rows, chunk.texts)))
            if len(waiting) > 2 * workers:  # no more than these are in memory
                chunk, encoded = waiting.popleft()
                yield chunk, *encoded.result()
        for chunk, encoded in waiting:
            yield chunk, *encoded.result()


def _encode(
    encoder: Encoder, prompts: Sequence[Messages], rows: Sequence[str], texts: Sequence[str]
) -> tuple[Cut, Cut]:
    try:
        return encoder.prompts(prompts), encoder.completions(texts)
    except FeedbackError:
        for prompt, row in zip(prompts, rows, strict=True):
            try:
                encoder.prompts([prompt])
            except FeedbackError as error:
                raise FeedbackError(f"row {row}: {error}") from error
        raise


@contextmanager
def _pool(encoder: Encoder, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes with a tokenizer each. Each uses one thread: told in the environment before they start, since the
    tokenizer would else warn of what it guesses."""
    name, before = "TOKENIZERS_PARALLELISM", os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ[name] = "false"
    try:
        with helpers(workers, _begin, encoder) as pool:
            yield pool
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _begin(encoder: Encoder) -> None:
    gc.disable()  # nothing here is a cycle, and many small objects come and go
    _worker["encoder"] = encoder


def _work(prompts: list[Messages], rows: list[str], texts: list[str]) -> tuple[Cut, Cut]:
    return _encode(_worker["encoder"], prompts, rows, texts)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))
