"""Sets in TRL's formats from the hub, parquet files and ``save_to_disk`` folders; columns and scores of one's own."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import datasets
import pytest
from published_rows import kto_mix
from pydantic import ValidationError

from kto_bench.feedback.sources.records import files_in, read_path
from kto_bench.feedback.sources.table import TableFeedback
from kto_bench.feedback.types import Binary, FeedbackError, Paired

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def table(rows: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows)


def test_kto_mix_is_in_a_format_of_trl(tmp_path: Path) -> None:
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    table([kto_mix("p", "c", True), kto_mix("p", "d", False)]).to_parquet(str(hub / "train-00000-of-00001.parquet"))
    table([kto_mix("t", "x", True)]).to_parquet(str(hub / "test-00000-of-00001.parquet"))
    for source in (
        TableFeedback(hub=str(hub.parent), heldout_split="test"),
        TableFeedback(path=hub.parent, heldout_split="test"),
    ):
        assert source.kind() == "binary"
        rows = source.load().rows
        assert [(row.prompt, row.completion, row.label) for row in rows] == [
            (user("p"), "c", True),
            (user("p"), "d", False),
        ]
        heldout = source.heldout()
        assert heldout is not None
        assert [row.completion for row in heldout.rows] == ["x"]


@pytest.mark.parametrize(
    "form", ["parquet", "json", "lines.json", "lines.json.gz", "jsonl", "jsonl.xz", "disk", "disk with splits"]
)
def test_local_forms(tmp_path: Path, form: str) -> None:
    rows = [PAIR, {**PAIR, "prompt": "q"}]
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        table(rows).to_parquet(str(path))
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "lines.json.gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    elif form in ("jsonl", "lines.json"):
        path.write_text("\n".join(map(json.dumps, rows)))
    elif form == "jsonl.xz":
        path.write_bytes(lzma.compress("\n".join(map(json.dumps, rows)).encode()))
    elif form == "disk":
        table(rows).save_to_disk(str(path))
    else:
        datasets.DatasetDict(train=table(rows), test=table([PAIR])).save_to_disk(str(path))
    feedback = TableFeedback(path=path).load()
    assert [(row.prompt, row.chosen) for row in feedback.rows] == [(user("p"), "good"), (user("q"), "good")]
    assert len({row.id for row in feedback.rows}) == 2
    assert TableFeedback(path=path, limit=1).load().rows == feedback.rows[:1]
    if path.is_dir():
        moved = TableFeedback(path=path.rename(tmp_path / "moved"))
        assert moved.load().rows == feedback.rows, "ids too: where it lies is not in the fingerprint"
        path = tmp_path / "moved"
    if form == "disk with splits":
        heldout = TableFeedback(path=path, heldout_split="test").heldout()
        assert heldout is not None
        assert len(heldout) == 1
        with pytest.raises(FeedbackError, match="no split 'dev'; choose one of train, test"):
            TableFeedback(path=path, split="dev").load()


def test_columns_and_scores(tmp_path: Path) -> None:
    rows = [{"question": "p", "answer": f"a{score}", "stars": score, "label": "x"} for score in (1, 2, 3, 4, 5)]
    table(rows).to_parquet(str(tmp_path / "rows.parquet"))
    columns = {"prompt": "question", "completion": "answer", "score": "stars"}
    source = TableFeedback(path=tmp_path, columns=columns, scores={"threshold": 3, "margin": 1})
    assert source.kind() == "binary"
    feedback = source.load()
    assert [(row.completion, row.label) for row in feedback.rows] == [
        ("a1", False), ("a2", False), ("a4", True), ("a5", True),
    ]  # fmt: skip
    assert feedback.dropped == {"the score is too near to the threshold": 1}
    assert feedback.rows[0] == Binary("rows:1", user("p"), "a1", False)
    with pytest.raises(FeedbackError, match=r"no column 'nought' \(feedback.columns\); there are: question, answer"):
        TableFeedback(path=tmp_path, columns={"prompt": "nought"}).load()


@pytest.mark.parametrize("threshold", [3, "prompt_mean"])
def test_bad_rows_among_scores_are_refused_or_counted(tmp_path: Path, threshold: Any) -> None:
    good = [{"prompt": prompt, "completion": f"a{score}", "score": score} for prompt in "pq" for score in (1, 5)]
    bad = {
        "the score is not a number": {**good[0], "score": None},
        "completion is null": {**good[0], "completion": None, "score": 99},
        "prompt has a message without role and content": {**good[0], "prompt": ["p"]},
        "empty prompt": {**good[0], "prompt": "", "score": 99},
        "missing field": {"prompt": "p", "chosen": "x", "rejected": "y", "score": 1},
    }
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*bad.values(), *good])))
    feedback = TableFeedback(path=tmp_path, scores={"threshold": threshold}, on_bad_rows="drop").load()
    assert [(row.completion, row.label) for row in feedback.rows] == [("a1", False), ("a5", True)] * 2
    assert feedback.dropped == dict.fromkeys(bad, 1)
    for reason, row in bad.items():
        (tmp_path / "rows.jsonl").write_text(json.dumps(row))
        with pytest.raises(FeedbackError, match=rf"rows.jsonl:1: .*{reason.replace('score is', 'score is None and')}"):
            TableFeedback(path=tmp_path, scores={"threshold": threshold}).load()


def test_bad_rows_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    table([PAIR, {**PAIR, "chosen": None}]).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(FeedbackError, match=r"rows.parquet, row 2: chosen is null"):
        TableFeedback(path=tmp_path).load()
    kept = TableFeedback(path=tmp_path, on_bad_rows="drop").load()
    assert kept.rows == [Paired("rows:1", user("p"), "good", "bad")]
    assert kept.dropped == {"chosen is null": 1}
    with pytest.raises(FeedbackError, match=r"rows: 'binary' is not what .* holds, which is paired"):
        TableFeedback(path=tmp_path, rows="binary", on_bad_rows="drop").load()
    with pytest.raises(ValidationError, match="hub and path are both empty"):
        TableFeedback()


def test_damaged_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FeedbackError, match=r"the folder .* has no file named \*\.jsonl"):
        files_in(tmp_path)
    for name in ("a.parquet", "a.json", "a.json.gz", "a.jsonl", "a.jsonl.gz", "a.jsonl.xz"):
        path = tmp_path / name
        path.write_bytes(b"\x1f\x8b{" if name.endswith("gz") else b"{")
        with pytest.raises(FeedbackError, match=rf"{name}(:1)?: .*was the download complete"):
            list(read_path(path, "train"))
        path.unlink()


def test_a_clone_of_a_repository_is_read_by_split_and_folder(tmp_path: Path) -> None:
    """As HH-RLHF lies on the hub: a folder for each part, files called after their splits, and one of another kind."""
    for part in ("harmless", "helpful"):
        (tmp_path / part).mkdir()
        for split in ("train", "test"):
            (tmp_path / part / f"{split}.jsonl").write_text(json.dumps({**PAIR, "prompt": f"{part} {split}"}) + "\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "attempts.jsonl").write_text('{"transcript": "x"}\n')
    source = TableFeedback(path=tmp_path, heldout_split="test")
    assert [(row.id, row.prompt) for row in source.load().rows] == [
        ("harmless/train:1", user("harmless train")),
        ("helpful/train:1", user("helpful train")),
    ]
    heldout = source.heldout()
    assert heldout is not None
    assert [row.prompt for row in heldout.rows] == [user("harmless test"), user("helpful test")]
    (tmp_path / "helpful" / "train_sft-00000-of-00001.jsonl").write_text(json.dumps(PAIR))
    (tmp_path / "helpful" / "train-00001-of-00002.jsonl").write_text(json.dumps({**PAIR, "prompt": "more"}))
    part = TableFeedback(path=tmp_path, data_dir="helpful")
    assert [row.prompt for row in part.load().rows] == [user("more"), user("helpful train")], (
        "train_sft is another split"
    )
    (tmp_path / "helpful" / "train-00001-of-00002.jsonl").unlink()
    assert [row.prompt for row in part.load().rows] == [user("helpful train")]
    assert part.identity() != TableFeedback(path=tmp_path, data_dir="harmless").identity()
