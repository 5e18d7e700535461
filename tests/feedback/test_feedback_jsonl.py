from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kto_bench.component import ConfigError, build
from kto_bench.feedback.sources.jsonl import JsonlFeedback
from kto_bench.feedback.types import (
    ROW_TYPES,
    Binary,
    Demonstration,
    FeedbackError,
    FeedbackSource,
    Paired,
    read_rows,
    write_rows,
)

USER = [{"role": "user", "content": "Why?"}]
ASSISTANT = [{"role": "assistant", "content": "So."}]
OTHER = [{"role": "assistant", "content": "No."}]
PROMPT = ({"role": "user", "content": "Why?"},)
TALK = [{"role": "system", "content": "Be brief."}, *USER, *OTHER, *USER]

BINARY = {"prompt": "Why?", "completion": "So.", "label": True}
PAIRED = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
SHOWN = {"prompt": "Why?", "completion": "So."}
FORMATS = [
    (BINARY, Binary("rows:1", PROMPT, "So.", True)),
    (BINARY | {"prompt": USER, "completion": ASSISTANT}, Binary("rows:1", PROMPT, "So.", True)),
    (PAIRED, Paired("rows:1", PROMPT, "So.", "No.")),
    (PAIRED | {"prompt": TALK, "chosen": ASSISTANT, "rejected": OTHER}, Paired("rows:1", tuple(TALK), "So.", "No.")),
    ({"chosen": TALK + ASSISTANT, "rejected": TALK + OTHER}, Paired("rows:1", tuple(TALK), "So.", "No.")),
    ({"prompt": "Why?", "chosen": USER + ASSISTANT, "rejected": USER + OTHER}, Paired("rows:1", PROMPT, "So.", "No.")),
    (SHOWN, Demonstration("rows:1", PROMPT, "So.")),
    (SHOWN | {"prompt": TALK, "completion": ASSISTANT}, Demonstration("rows:1", tuple(TALK), "So.")),
]


@pytest.mark.parametrize(("value", "row"), FORMATS)
def test_formats(write, value, row):
    source = JsonlFeedback(path=write(value))
    feedback = source.load()
    assert feedback.rows == [row]
    assert source.kind() == feedback.kind
    assert isinstance(row, ROW_TYPES[feedback.kind])


def test_rows_survive_writing_and_reading(write, tmp_path):
    feedback = JsonlFeedback(path=write(BINARY, BINARY | {"completion": "a\u2028b\x85c\rd"})).load()
    write_rows(tmp_path / "again.jsonl", feedback.rows)
    assert read_rows(tmp_path / "again.jsonl", "binary") == feedback.rows


BAD_ROWS = [
    (b"{", "not JSON"),
    (b'{"prompt": ' + b"[" * 100_000, "not JSON"),
    (b'{"prompt": "a\xff"}', "not UTF-8"),
    ([1], "not a JSON object"),
    (SHOWN, "missing field"),
    ({"text": "a"}, "missing field"),
    (BINARY | {"prompt": ""}, "empty prompt"),
    (BINARY | {"prompt": " \n"}, "empty prompt"),
    (BINARY | {"completion": " "}, "empty completion"),
    (BINARY | {"completion": None}, "completion is null"),
    (BINARY | {"completion": 7}, "completion is not text"),
    (BINARY | {"completion": "\ud800"}, "half a Unicode surrogate pair"),
    (BINARY | {"label": 1}, "label is not true or false"),
    (BINARY | {"label": "true"}, "label is not true or false"),
    (BINARY | {"label": None}, "label is null"),
    (BINARY | {"prompt": None}, "prompt is null"),
    (BINARY | {"prompt": 3}, "prompt is not text"),
    (BINARY | {"prompt": USER}, "another format than the first row"),
    (PAIRED | BINARY, "another format than the first row"),
    (BINARY | {"completion": USER}, "completion is not one assistant message"),
    (BINARY | {"completion": ASSISTANT + ASSISTANT}, "completion is not one assistant message"),
    (BINARY | {"completion": [{"role": "assistant"}]}, "completion has a message without role and content"),
    (BINARY | {"completion": [{"role": "assistant", "content": [1]}]}, "completion content is not text"),
    (BINARY | {"id": 1.5}, "id is neither text nor a whole number"),
]
BAD_CHATS = [
    (BINARY | {"prompt": []}, "empty prompt"),
    (BINARY | {"prompt": [{"role": "robot", "content": "a"}]}, "unknown role"),
    (BINARY | {"prompt": USER + ASSISTANT}, "the prompt's last message is not the user's"),
    (BINARY | {"prompt": ["Why?"]}, "prompt has a message without role and content"),
]
BAD_PAIRS = [
    (PAIRED | {"chosen": "No."}, "chosen equals rejected"),
    (PAIRED | {"rejected": ""}, "empty rejected"),
    (BINARY, "missing field"),
]
CONVERSATIONS = {"chosen": USER + ASSISTANT, "rejected": USER + OTHER}
BAD_CONVERSATIONS = [
    (CONVERSATIONS | {"rejected": USER + ASSISTANT}, "chosen equals rejected"),
    (
        CONVERSATIONS | {"rejected": TALK + OTHER},
        "chosen and rejected do not differ in one last assistant message only",
    ),
    (CONVERSATIONS | {"rejected": USER + USER}, "chosen and rejected do not differ in one last assistant message only"),
    (CONVERSATIONS | {"prompt": "How?"}, "the prompt is not the one of the conversations"),
    (CONVERSATIONS | {"rejected": "No."}, "rejected is not a conversation"),
]


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        *((BINARY, *case) for case in BAD_ROWS),
        *((BINARY | {"prompt": USER}, *case) for case in BAD_CHATS),
        *((PAIRED, *case) for case in BAD_PAIRS),
        *((CONVERSATIONS, *case) for case in BAD_CONVERSATIONS),
    ],
)
def test_bad_rows_stop_or_are_counted(write, caplog, good, bad, reason):
    path = write(good, bad, bad, good)
    with pytest.raises(FeedbackError, match=re.escape(f"{path}:2: {reason}")):
        JsonlFeedback(path=path).load()
    feedback = JsonlFeedback(path=path, on_bad_rows="drop").load()
    assert [row.id for row in feedback.rows] == ["rows:1", "rows:4"]
    assert feedback.dropped == {reason: 2}
    assert caplog.text.count(f"{path}:2: {reason}") == 1
    assert f"{path}:3" not in caplog.text


def test_format_comes_from_the_first_row_that_can_be_read(write):
    path = write(PAIRED | {"chosen": ""}, BINARY, PAIRED)
    assert JsonlFeedback(path=path, on_bad_rows="drop").kind() == "binary"
    feedback = JsonlFeedback(path=path, on_bad_rows="drop").load()
    assert feedback.dropped == {"empty chosen": 1, "missing field": 1}


def test_splits_on_newline_only(write):
    text = "a\u2028b\u2029c\x85d\x0be"
    raw = json.dumps(SHOWN | {"completion": text}, ensure_ascii=False).encode()
    assert JsonlFeedback(path=write(raw, raw.replace(b"Why", b"How"))).load().rows[1].completion == text


def test_windows_line_ends_blank_lines_and_byte_order_mark(write):
    raw = json.dumps(SHOWN).encode()
    feedback = JsonlFeedback(path=write(b"\xef\xbb\xbf" + raw + b"\r", b"\r", raw)).load()
    assert [row.id for row in feedback.rows] == ["rows:1", "rows:3"]


def test_folder_is_read_in_order_of_names_plain_and_gzip(write, tmp_path):
    write(SHOWN | {"completion": "2"}, name="b.jsonl")
    (tmp_path / "a.test.jsonl.gz").write_bytes(gzip.compress(json.dumps(SHOWN | {"completion": "1"}).encode()))
    write({"not": "read"}, name="notes.json")
    rows = JsonlFeedback(path=tmp_path).load().rows
    assert [(row.id, row.completion) for row in rows] == [("a.test:1", "1"), ("b:1", "2")]


def test_truncated_gzip(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    lines = "\n".join(json.dumps(SHOWN | {"completion": f"{n} {n**9}"}) for n in range(5000))
    whole = gzip.compress(lines.encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeedbackError, match=r"rows\.jsonl\.gz:\d+: damaged gzip file"):
        JsonlFeedback(path=path).load()
    feedback = JsonlFeedback(path=path, on_bad_rows="drop").load()
    assert feedback.dropped == {"damaged gzip file: the rows after here are lost": 1}
    assert 1000 < len(feedback) < 5000
    assert JsonlFeedback(path=path).kind() == "demonstrations"  # only looks at the first row


def test_ids(write):
    rows = JsonlFeedback(path=write(SHOWN | {"id": "x"}, SHOWN | {"id": 7}, SHOWN)).load().rows
    assert [row.id for row in rows] == ["x", "7", "rows:3"]
    path = write(SHOWN | {"id": "x"}, SHOWN | {"id": "x"})
    with pytest.raises(FeedbackError, match=re.escape(f"{path}:2: the id 'x' is taken by {path}:1")):
        JsonlFeedback(path=path, on_bad_rows="drop").load()


def test_limit_counts_rows_that_are_kept(write):
    path = write(SHOWN | {"completion": ""}, SHOWN, SHOWN, b"{")
    feedback = JsonlFeedback(path=path, on_bad_rows="drop", limit=2).load()
    assert [row.id for row in feedback.rows] == ["rows:2", "rows:3"]
    assert feedback.dropped == {"empty completion": 1}


@pytest.mark.parametrize("lines", [(), (b"",)])
def test_empty_file(write, lines):
    for action in ("error", "drop"):
        with pytest.raises(FeedbackError, match="no row can be used: it is empty"):
            JsonlFeedback(path=write(*lines), on_bad_rows=action).load()


def test_nothing_left(write):
    with pytest.raises(FeedbackError, match=re.escape("all were left out (2 × empty completion)")):
        JsonlFeedback(path=write(*[SHOWN | {"completion": ""}] * 2), on_bad_rows="drop").load()


def test_missing_path_and_empty_folder(tmp_path):
    for method in ("kind", "load", "identity"):
        with pytest.raises(FeedbackError, match=r"nowhere\.jsonl does not exist.*plain or gzip, or a folder"):
            getattr(JsonlFeedback(path=tmp_path / "nowhere.jsonl"), method)()
    with pytest.raises(FeedbackError, match="has no file named"):
        JsonlFeedback(path=tmp_path).load()


def test_identity_is_the_content(write, tmp_path):
    source = JsonlFeedback(path=write(SHOWN))
    (tmp_path / "elsewhere").mkdir()
    moved = JsonlFeedback(path=Path(shutil.copy(source.path, tmp_path / "elsewhere")))
    renamed = JsonlFeedback(path=write(SHOWN, name="renamed.jsonl"))  # its rows have other ids
    changed = JsonlFeedback(path=write(SHOWN, SHOWN, name="more.jsonl"))
    assert source.identity() == moved.identity() != renamed.identity()
    assert str(tmp_path) not in json.dumps(source.identity())
    assert source.identity() != changed.identity()
    assert source.identity() != source.model_copy(update={"limit": 1}).identity()
    assert source.identity() != source.model_copy(update={"on_bad_rows": "drop"}).identity()


def test_configuration(write):
    target = "kto_bench.feedback.sources.jsonl.JsonlFeedback"
    path = write(SHOWN)
    assert build({"_target_": target, "path": str(path)}, FeedbackSource, "feedback") == JsonlFeedback(path=path)
    for wrong in ({"path": str(path), "limit": 0}, {"path": str(path), "on_bad_rows": "skip"}, {}):
        with pytest.raises(ConfigError, match=r"feedback\.(limit|on_bad_rows|path)"):
            build({"_target_": target, **wrong}, FeedbackSource, "feedback")


def test_shipped_configuration_fits_the_source(write):
    import yaml

    node = yaml.safe_load((Path(__file__).parents[2] / "conf/feedback/jsonl.yaml").read_text())
    assert node["path"] == "???"
    node.pop("defaults", None)  # of Hydra, which takes them away before the source is built
    assert build({**node, "path": str(write(SHOWN))}, FeedbackSource, "feedback").kind() == "demonstrations"


SAMPLE = b"\n".join(json.dumps(value).encode() for value, _ in FORMATS[:2] * 2)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["user", "assistant"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "completion", "label", "chosen", "rejected", "role", "content", "id"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@st.composite
def mutated(draw):
    data = bytearray(draw(st.sampled_from([SAMPLE, gzip.compress(SAMPLE, mtime=0)])))
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 6))] = draw(st.binary(max_size=4))
    return bytes(data)


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    for action in ("error", "drop"):
        source = JsonlFeedback(path=path, on_bad_rows=action)
        try:
            feedback = source.load()
        except FeedbackError as error:
            refused = str(error)
        else:
            refused = None
        if refused is not None:
            assert str(path) in refused
            continue
        assert source.kind() == feedback.kind
        assert feedback.rows
        assert all(type(row) is ROW_TYPES[feedback.kind] for row in feedback.rows)
        write_rows(path.with_suffix(".out"), feedback.rows)
        assert read_rows(path.with_suffix(".out"), feedback.kind) == feedback.rows


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=mutated())
def test_mutated_bytes_end_in_rows_or_an_error_that_says_why(tmp_path, data):
    check(tmp_path / "rows.jsonl", data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON, min_size=1, max_size=3))
def test_any_json_ends_in_rows_or_an_error_that_says_why(tmp_path, values):
    check(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, values)).encode())
