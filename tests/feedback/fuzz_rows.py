"""Mutated files of feedback, which must end in valid rows or in an error that says where and why.

PYTHONPATH=tests/feedback python tests/feedback/fuzz_rows.py 10000 [SEED]
"""

from __future__ import annotations

import gzip
import json
import logging
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kto_bench.feedback.sources.jsonl import JsonlFeedback
from kto_bench.feedback.types import ROW_TYPES, FeedbackError, read_rows, write_rows

USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
OTHER = {"role": "assistant", "content": "No."}
SAMPLES: list[dict[str, Any]] = [
    {"prompt": "Why?", "completion": "So.", "label": True},
    {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "id": 7},
    {"prompt": [USER, ANSWER, USER], "completion": [ANSWER], "label": False, "id": "x"},
    {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
    {"prompt": "Why\u2028?", "completion": "So\u0085."},
]
JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.5, 1e999, 10**400, "", " ", "\x00", "\ud800", "\u2028", "\ufeff", "\ue0001\ue001"),
    *("a" * 5000, [], [[]], {}, [USER], [ANSWER], [USER, ANSWER], [None], [{"role": "user"}]),
    *([{"role": "robot", "content": "a"}], [{"role": ["user"], "content": "a"}], [{"role": "user", "content": None}]),
    {"role": "user", "content": "a"},
]
BYTES = [
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\n", b"\r", b"\r\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x1f\x8b"),
    *(b'"', b"\\", b"{", b"}", b"[", b"\\u", b"\\ud83d", b"1" * 5000, b"[" * 2000, b"NaN", b"Infinity"),
]


def mutated_value(value: dict[str, Any], chance: random.Random) -> Any:
    """A row with a field changed, renamed, removed or added."""
    value = dict(value)
    field = chance.choice([*value, "id", "label", "prompt", "extra"])
    match chance.randrange(5):
        case 0:
            value.pop(field, None)
        case 1:
            value[field.upper()] = value.pop(field, None)
        case 2:
            return chance.choice([value, [value], str(value), chance.choice(JUNK)])
        case _:
            value[field] = chance.choice(JUNK)
    return value


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced, removed, put in, said twice or cut off."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        place, length = chance.randrange(len(changed) + 1), chance.choice([0, 1, 1, 2, 8, 40])
        match chance.randrange(5):
            case 0:
                changed[place : place + length] = chance.randbytes(length)
            case 1:
                changed[place:place] = chance.choice(BYTES)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[place : place + 60]
            case _:
                if chance.random() < 0.3:
                    del changed[place:]
    return bytes(changed)


def mutated_file(chance: random.Random) -> bytes:
    """A file of one to six rows of a format, of which some are broken; plain or gzip, which may be broken, too."""
    sample = chance.choice(SAMPLES)
    values: list[Any] = [
        {key: value for key, value in sample.items() if key != "id"} if number else sample
        for number in range(chance.randrange(1, 7))
    ]
    for number, value in enumerate(values):
        if chance.random() < 0.4:
            values[number] = mutated_value(value, chance)
    ascii_ = chance.random() < 0.7
    lines = [json.dumps(value, ensure_ascii=ascii_).encode("utf-8", "surrogatepass") for value in values]
    data = chance.choice([b"\n", b"\n", b"\r\n", b"\n\n"]).join(lines) + chance.choice([b"", b"\n"])
    if chance.random() < 0.6:
        data = mutated_bytes(data, chance)
    if chance.random() < 0.25:
        data = gzip.compress(data, compresslevel=1, mtime=0)
        if chance.random() < 0.6:
            data = mutated_bytes(data, chance)
    return data


def outcome(path: Path, *, drop: bool) -> str:
    """How reading ends: "rows", "rows, some dropped" or "error". AssertionError where it is none of them."""
    source = JsonlFeedback(path=path, on_bad_rows="drop" if drop else "error")
    try:
        feedback = source.load()
    except FeedbackError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert re.match(rf"{re.escape(str(path))}(:\d+: |: no row can be used: )", refused), "names file and line"
        return "error"
    assert feedback.rows
    assert source.kind() == feedback.kind
    assert all(type(row) is ROW_TYPES[feedback.kind] for row in feedback.rows)
    assert len({row.id for row in feedback.rows}) == len(feedback.rows)
    for row in feedback.rows:
        sides = [getattr(row, side) for side in ("completion", "chosen", "rejected") if hasattr(row, side)]
        assert all(isinstance(text, str) and text.strip() for text in sides)
        assert row.prompt[-1]["role"] == "user"
        assert row.prompt[-1]["content"].strip()
        assert isinstance(getattr(row, "label", True), bool)
    write_rows(path.with_suffix(".out"), feedback.rows)
    assert read_rows(path.with_suffix(".out"), feedback.kind) == feedback.rows
    assert drop or not feedback.dropped
    assert feedback.dropped.keys() == feedback.first_dropped.keys()
    assert all(place.startswith(f"{path}:") for place in feedback.first_dropped.values())
    return "rows, some dropped" if feedback.dropped else "rows"


def fuzz(count: int, seed: int, folder: Path) -> Counter[str]:
    """Read ``count`` mutated files, dropping bad rows and not; how often each outcome was."""
    path, outcomes = folder / "rows.jsonl", Counter[str]()
    for number in range(count):
        path.write_bytes(mutated_file(random.Random(f"{seed} {number}")))
        strict, lenient = outcome(path, drop=False), outcome(path, drop=True)
        assert strict in ("rows", "error")
        assert (strict == "rows") <= (lenient == "rows"), "what is fine as it is has nothing to be dropped"
        outcomes[f"strict: {strict}"] += 1
        outcomes[f"drop: {lenient}"] += 1
    return outcomes


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    files, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found = fuzz(files, seed, Path(scratch))
    print(f"{files:,} files in {time.monotonic() - started:.1f} s: {dict(sorted(found.items()))}")
