"""What users' files hold, and the error or the counted drop that they want: file, line, reason and a way out."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_rows import fuzz

from kto_bench.feedback.preparation import prepare
from kto_bench.feedback.sources.jsonl import JsonlFeedback
from kto_bench.feedback.types import Feedback, FeedbackError

Write = Callable[..., Path]
ROW: dict[str, Any] = {"prompt": "Why?", "completion": "So.", "label": True}
PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}


def said(**changes: Any) -> bytes:
    return json.dumps({**ROW, **changes}).encode()


BAD: dict[str, tuple[bytes, str]] = {
    "empty prompt": (said(prompt=""), "empty prompt"),
    "prompt of white space": (said(prompt=" \n\u2028"), "empty prompt"),
    "empty completion": (said(completion=""), "empty completion"),
    "null prompt": (said(prompt=None), "prompt is null"),
    "null completion": (said(completion=None), "completion is null"),
    "null label": (said(label=None), "label is null"),
    "null row": (b"null", "not a JSON object"),
    "label 1": (said(label=1), "label is not true or false"),
    "label yes": (said(label="yes"), "label is not true or false"),
    "label 0.7": (said(label=0.7), "label is not true or false"),
    "unknown role": (
        said(prompt=[{"role": "human", "content": "Why?"}]),
        "unknown role ('human'; known: system, user, assistant)",
    ),
    "invalid UTF-8": (said().replace(b"So.", b"So\xff."), "not UTF-8 (byte 37 of the line)"),
    "UTF-16": (said().decode().encode("utf-16"), "not UTF-8"),
    "half an emoji": (said(completion="\ud83d"), "half a Unicode surrogate pair"),
    "a row of 50 MB": (said(completion="a" * 50_000_000), "longer than 16 MiB"),
    "half a row": (said()[:20], "not JSON"),
    "two rows on a line": (said() + said(), "not JSON"),
    "numbers that JSON has not": (said(label=float("nan")), "label is not true or false"),
}


@pytest.mark.parametrize("case", BAD)
def test_it_stops_with_file_line_and_a_way_out_or_is_counted(write: Write, case: str) -> None:
    bad, reason = BAD[case]
    good = [said(prompt=[{"role": "user", "content": "Why?"}])] * 2 if case == "unknown role" else [said()] * 2
    path = write(good[0], bad, good[1])
    with pytest.raises(FeedbackError, match=rf"^{re.escape(f'{path}:2: {reason}')}") as error:
        JsonlFeedback(path=path).load()
    assert "Mend the row, or set on_bad_rows: drop to leave out and count such rows" in str(error.value)
    feedback = JsonlFeedback(path=path, on_bad_rows="drop").load()
    assert [row.id for row in feedback.rows] == ["rows:1", "rows:3"]
    counted = reason.partition(" (")[0]
    assert feedback.dropped == {counted: 1}
    assert feedback.first_dropped == {counted: f"{path}:2"}


def test_a_file_without_line_ends_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(b" x" * 2**20)
        file.write(b"\n" + said() + b"\n")
    feedback = JsonlFeedback(path=path, on_bad_rows="drop").load()
    assert [row.id for row in feedback.rows] == ["rows:2"]
    assert feedback.dropped == {"longer than 16 MiB": 1}


def test_a_row_just_below_the_limit_is_read(write: Write) -> None:
    text = "a" * (16 * 2**20 - len(said(completion="")) - 1)
    assert len(JsonlFeedback(path=write(said(completion=text))).load().rows[0].completion) == len(text)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_line_separators_inside_a_row_are_part_of_it(write: Write, separator: str) -> None:
    text = f"one{separator}two"
    raw = json.dumps({**ROW, "completion": text}, ensure_ascii=False).encode()
    feedback = JsonlFeedback(path=write(raw, said())).load()
    assert [row.completion for row in feedback.rows] == [text, "So."]
    assert [row.id for row in feedback.rows] == ["rows:1", "rows:2"]


@pytest.mark.parametrize("kept", [30, 200, 2000, -1, -8])
def test_a_truncated_gzip(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(b"\n".join(said(completion=f"{n} {n**9}") for n in range(500)))
    path.write_bytes(whole[:kept])
    with pytest.raises(FeedbackError, match=r"rows\.jsonl\.gz:\d+: damaged gzip file: the rows after here are lost"):
        JsonlFeedback(path=path).load()
    lenient = JsonlFeedback(path=path, on_bad_rows="drop")
    if kept == 30:
        with pytest.raises(FeedbackError, match=r"no row can be used: all were left out \(1 × damaged gzip"):
            lenient.load()
        return
    feedback = lenient.load()
    assert feedback.dropped.pop("damaged gzip file: the rows after here are lost") == 1
    assert not feedback.dropped, "the row that was cut off is not counted twice"
    assert [row.completion for row in feedback.rows] == [f"{n} {n**9}" for n in range(len(feedback))]


def test_duplicate_ids_are_named_with_both_places_in_any_mode(write: Write, tmp_path: Path) -> None:
    path = write(said(id="x"), said(id="y"), said(id="x"))
    for action in ("error", "drop"):
        with pytest.raises(FeedbackError, match=re.escape(f"{path}:3: the id 'x' is taken by {path}:1; ids must be")):
            JsonlFeedback(path=path, on_bad_rows=action).load()
    write(said(id="z"), name="a.jsonl")
    write(said(id="z"), name="b.jsonl")
    path.unlink()
    with pytest.raises(FeedbackError, match=re.escape(f"b.jsonl:1: the id 'z' is taken by {tmp_path / 'a.jsonl'}:1")):
        JsonlFeedback(path=tmp_path).load()


def test_a_pair_of_equal_completions_is_refused_or_counted(write: Write) -> None:
    path = write(PAIR, {**PAIR, "rejected": "So."})
    with pytest.raises(FeedbackError, match=re.escape(f"{path}:2: chosen equals rejected")):
        JsonlFeedback(path=path).load()
    assert JsonlFeedback(path=path, on_bad_rows="drop").load().dropped == {"chosen equals rejected": 1}


def test_a_completion_that_is_in_both_classes_is_kept_counted_and_named(write: Write) -> None:
    """People disagree, so it is feedback; but nobody should have to find out from the results."""
    path = write(said(), said(completion="Other."), said(label=False), said(prompt="How?", label=False), said())
    prepared = prepare(JsonlFeedback(path=path), {})
    assert len(prepared.train) == 5
    found = prepared.summary["repetitions"]
    assert found["contradictions"] == {"count": 1, "ids": [["rows:1", "rows:3"]]}
    assert found["duplicates"] == {"count": 1, "ids": [["rows:1", "rows:5"]]}


def test_every_reason_is_in_what_the_record_gets(write: Write) -> None:
    path = write(said(), *[bad for name, (bad, _) in BAD.items() if name not in ("a row of 50 MB", "unknown role")])
    prepared = prepare(JsonlFeedback(path=path, on_bad_rows="drop"), {})
    assert sum(prepared.summary["dropped"].values()) == len(BAD) - 2
    assert prepared.summary["first_dropped"].keys() == prepared.summary["dropped"].keys()
    assert isinstance(prepared.train, Feedback)


def test_mutated_files_end_in_valid_rows_or_an_error_with_file_and_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``fuzz_rows.py`` reads 10,000 of them."""
    caplog.set_level("ERROR")
    outcomes = fuzz(400, seed=0, folder=tmp_path)
    assert set(outcomes) == {"strict: rows", "strict: error", "drop: rows", "drop: rows, some dropped", "drop: error"}
    assert min(outcomes.values()) > 20, "all outcomes happen"
