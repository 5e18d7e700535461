"""How long and in how much memory feedback becomes token ids, beside the fast tokenizer alone on the same texts."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from transformers import PreTrainedTokenizerFast

from kto_bench.feedback.sources.jsonl import JsonlFeedback
from kto_bench.feedback.templates import TURNS
from kto_bench.feedback.tokenising import CHUNK, cores, tokenise_file
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, Messages, Paired, iter_rows, write_rows

TURNS_OF = ("suite", "transformers", "tokenizers")
MEGABYTE = 2**20


def shuffled(text: str, random: np.random.Generator) -> str:
    """The words of ``text`` in another order: as long, of the same words, and new to any cache."""
    words = text.split(" ")
    return " ".join(words[index] for index in random.permutation(len(words)))


def write_many(source: Path, target: Path, completions: int) -> None:
    """Rows of ``source`` until there are ``completions``; from the second time on their words are shuffled."""
    rows = JsonlFeedback(path=source).load().rows
    random = np.random.default_rng(0)

    def turn(messages: Messages) -> Messages:
        return tuple({**message, "content": shuffled(message["content"], random)} for message in messages)

    made: list[Paired | Binary] = []
    while sum(2 if isinstance(row, Paired) else 1 for row in made) < completions:
        row = rows[len(made) % len(rows)]
        if len(made) >= len(rows):
            sides = [side for side in ("chosen", "rejected", "completion") if hasattr(row, side)]
            texts = {side: f"{number} {shuffled(getattr(row, side), random)}" for number, side in enumerate(sides)}
            row = type(row)(
                **{
                    **{name: getattr(row, name) for name in row.__dataclass_fields__},
                    **texts,
                    "id": f"{len(made)}",
                    "prompt": turn(row.prompt),
                }
            )
        made.append(row)
    write_rows(target, made)


def encoder_of(tokenizer: Path) -> Encoder:
    """Of a tokenizer.json or a folder of transformers, with the template of the KTO paper."""
    if tokenizer.is_dir():
        loaded = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    else:
        vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]
        end = next(token["content"] for token in vocabulary if "end" in token["content"] or "/s" in token["content"])
        loaded = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), bos_token=end, eos_token=end)
    loaded.chat_template = TURNS
    return Encoder(loaded, 1024, 1024)


def texts_of(rows: Path, kind: Any, encoder: Encoder) -> list[str]:
    """What the tokenizer gets: distinct prompts as the template writes them, and completions."""
    prompts: dict[str, Messages] = {}
    completions: list[str] = []
    for row in iter_rows(rows, kind):
        prompts.setdefault(json.dumps(row.prompt), row.prompt)
        completions += [row.chosen, row.rejected] if isinstance(row, Paired) else [row.completion]
    return [*map(encoder.render, prompts.values()), *completions]


class Memory:
    """The most memory of their own (USS) that this process and those it starts have at a time, sampled."""

    def __enter__(self) -> Memory:
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.2):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_full_info().uss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and seconds of all cores by this process and those it has started."""

    def spent() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    before, started = spent(), time.perf_counter()
    work()
    return time.perf_counter() - started, spent() - before


def turn(name: str, folder: Path, tokenizer: Path, kind: Any, workers: int | None) -> dict[str, float]:
    """One measurement, in a process of its own."""
    encoder = encoder_of(tokenizer)
    rows = folder / "rows.jsonl"
    if name in ("suite", "memory"):

        def tokenise() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                tokenise_file(rows, kind, encoder, Path(out), lambda done, total: None, workers)

        if name == "memory":
            before = psutil.Process().memory_full_info().uss
            with Memory() as memory:
                tokenise()
            return {"peak_bytes": memory.peak, "before_bytes": before}
        wall, cpu = seconds(tokenise)
        return {"wall_seconds": wall, "cpu_seconds": cpu}
    texts = texts_of(rows, kind, encoder)
    tokenizer_ = encoder.tokenizer
    backend = tokenizer_.backend_tokenizer

    def whole() -> None:
        tokenizer_(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]

    def chunks() -> None:
        for start in range(0, len(texts), 3 * CHUNK):
            backend.encode_batch_fast(texts[start : start + 3 * CHUNK], add_special_tokens=False)

    wall, cpu = seconds(whole if name == "transformers" else chunks)
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="feedback in JSON lines, such as HH-RLHF's")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json, or a folder of transformers")
    parser.add_argument("--completions", type=int, default=100_000)
    parser.add_argument("--workers", type=int, help="processes (default: as in a run)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write all numbers here as JSON")
    parser.add_argument("--turn", choices=(*TURNS_OF, "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(turn(options.turn, options.folder, options.tokenizer, options.kind, options.workers)))
        return 0
    kind = JsonlFeedback(path=options.rows).kind()
    numbers: dict[str, list[dict[str, float]]] = {name: [] for name in TURNS_OF}
    with tempfile.TemporaryDirectory() as scratch:
        write_many(options.rows, Path(scratch) / "rows.jsonl", options.completions)

        def measured(name: str) -> dict[str, float]:
            command = [sys.executable, __file__, *sys.argv[1:], "--turn", name, "--folder", scratch, "--kind", kind]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            return found

        for _ in range(options.repeats):  # turn by turn, so that a busy machine is busy for all
            for name in TURNS_OF:
                numbers[name].append(measured(name))
        memory = measured("memory")
    print(f"{options.completions:,} completions, {cores()} cores, medians of {options.repeats} turns")
    median = {
        name: {key: statistics.median(one[key] for one in turns) for key in turns[0]} for name, turns in numbers.items()
    }
    for name, found in median.items():
        ratio = median["suite"]["wall_seconds"] / found["wall_seconds"]
        print(
            f"{name:13} {found['wall_seconds']:7.2f} s wall, {found['cpu_seconds']:7.2f} s of cores"
            + (f"; the suite takes {ratio:.2f} times as long" if name != "suite" else "")
        )
    peak, before = (memory[name] / MEGABYTE for name in ("peak_bytes", "before_bytes"))
    print(f"memory of the suite's own processes at its peak: {peak:.0f} MB, of which {before:.0f} MB before it began")
    if options.output:
        options.output.write_text(
            json.dumps({"cores": cores(), "turns": numbers, "memory": memory}, indent=2), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
