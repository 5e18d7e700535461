"""Files of JSON lines, whole and half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from kto_bench.lines import append_line, pack, packed_name, read_lines, write_lines


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


def test_packed_lines_are_read_like_any_others(tmp_path: Path) -> None:
    """And pack to the same bytes whenever that is done, so that committing them twice changes nothing."""
    rows = [{"text": "a\u2028b"}, {"step": 2}]
    path = tmp_path / "x.jsonl"
    write_lines(path, rows)
    (tmp_path / "shared").mkdir()
    first = pack(path, tmp_path / "shared").read_bytes()
    assert pack(path, tmp_path / "shared").read_bytes() == first
    assert read_lines(tmp_path / "shared" / "x.jsonl") == rows


def test_what_was_written_compressed_is_read_under_its_name_when_it_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    write_lines(path, [{"step": 1}])
    assert read_lines(path) == read_lines(tmp_path / "x.jsonl") == [{"step": 1}]
    assert pack(path, tmp_path).name == "x.jsonl.xz"
    path.unlink()
    assert read_lines(path) == [{"step": 1}]


def test_a_file_goes_before_what_it_was_packed_into(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_lines(path, [{"step": 1}])
    pack(path, tmp_path)
    write_lines(path, [{"step": 2}])
    assert read_lines(path) == [{"step": 2}]


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_damaged_packed_file_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.jsonl"
    write_lines(path, [{"step": step} for step in range(99)])
    packed = pack(path, tmp_path)
    packed.write_bytes(packed.read_bytes()[:40] if content is None else content)
    path.unlink()
    with pytest.raises(ValueError, match=r"x\.jsonl\.xz: damaged"):
        read_lines(path)
    assert packed == packed_name(path)
