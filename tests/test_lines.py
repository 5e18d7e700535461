"""Files of JSON lines, whole and half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kto_bench.lines import append_line, read_lines, write_lines


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Unicode line separators inside a text do not end a row."""
    rows = [{"text": "a\u2028b\x85c"}, {"text": "\n"}]
    write_lines(tmp_path / "x.jsonl", rows)
    append_line(tmp_path / "x.jsonl", {"step": 3})
    assert read_lines(tmp_path / "x.jsonl") == [*rows, {"step": 3}]


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b'{"step": 3, "note": "\xc3', b"", b"\n"])
def test_a_half_written_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail)
    assert read_lines(path) == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        read_lines(path)


def test_a_last_line_without_newline_counts_if_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}')
    assert read_lines(tmp_path / "x.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_lines(tmp_path / "absent.jsonl") == []
