"""Training on a part of the feedback."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_run import MakeConfig

from kto_bench.component import ConfigError
from kto_bench.feedback.subsampling import subsample, trained_kind, trained_part
from kto_bench.feedback.types import (
    Binary,
    Feedback,
    FeedbackError,
    FeedbackKind,
    FeedbackSource,
    Paired,
)
from kto_bench.run import describe, execute


class Source(FeedbackSource):
    name: str = "test"

    def kind(self) -> FeedbackKind:
        return "paired"


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


PAIRS = Feedback("paired", [Paired(f"p{n}", user(f"q{n // 2}"), f"good {n}", f"bad {n}") for n in range(200)])
SINGLES = Feedback("binary", [Binary(f"b{n}", user(f"q{n}"), f"text {n}", n % 5 == 0) for n in range(200)])


def kept(feedback: Feedback, **fields: Any) -> list[Binary]:
    return subsample(feedback, Source(**fields))[0].rows


def counts(rows: list[Binary]) -> Counter[bool]:
    return Counter(row.label for row in rows)


@pytest.mark.parametrize(
    ("fields", "desirable", "undesirable"),
    [
        ({"keep_desirable": 0.01}, 2, 200),
        ({"keep_desirable": 0.25}, 50, 200),
        ({"keep_undesirable": 0.123}, 200, 25),
        ({"keep_desirable": 0.5, "keep_undesirable": 0.1}, 100, 20),
        ({"keep_desirable": 1e-6}, 1, 200),
    ],
)
def test_the_numbers_are_exact(fields: dict[str, float], desirable: int, undesirable: int) -> None:
    rows, summary = subsample(PAIRS, Source(**fields))
    assert counts(rows.rows) == {True: desirable, False: undesirable}
    assert summary["kept"]["desirable"] == desirable
    assert summary["before"] == {"desirable": 200, "undesirable": 200, "prompts": 100}


def test_what_is_kept_are_completions_of_the_pairs_with_their_labels_in_their_order() -> None:
    rows = kept(PAIRS, keep_desirable=0.5)
    sides = {
        (row.prompt[0]["content"], text): good
        for row in PAIRS.rows
        for text, good in ((row.chosen, True), (row.rejected, False))
    }
    assert all(sides[row.prompt[0]["content"], row.completion] == row.label for row in rows)
    numbers = [int(row.completion.split()[1]) for row in rows]
    assert numbers == sorted(numbers)
    assert len({row.id for row in rows}) == len(rows)


def test_a_share_is_part_of_a_larger_one_and_the_other_class_does_not_matter() -> None:
    small = {row.id for row in kept(PAIRS, keep_desirable=0.1)}
    assert small < {row.id for row in kept(PAIRS, keep_desirable=0.3)}
    both = kept(PAIRS, keep_desirable=0.1, keep_undesirable=0.2)
    assert {row.id for row in both if row.label} == {i for i in small if i.endswith("chosen")}


def test_the_draw_follows_from_the_seed_and_not_from_the_order_of_the_rows() -> None:
    first = {row.id for row in kept(PAIRS, keep_desirable=0.2)}
    assert first == {row.id for row in kept(Feedback("paired", PAIRS.rows[::-1]), keep_desirable=0.2)}
    assert first != {row.id for row in kept(PAIRS, keep_desirable=0.2, keep_seed=1)}


def test_one_completion_of_every_prompt_of_either_side() -> None:
    rows = kept(PAIRS, one_completion_per_prompt=True)
    assert len(rows) == len({row.prompt[0]["content"] for row in rows}) == 100
    assert 30 < counts(rows)[True] < 70  # 50 expected, standard deviation 5
    rows = kept(PAIRS, one_completion_per_prompt=True, keep_desirable=0.5)
    assert counts(rows)[True] == round(0.5 * counts(kept(PAIRS, one_completion_per_prompt=True))[True])


def test_binary_feedback_keeps_its_rows() -> None:
    rows = kept(SINGLES, keep_undesirable=0.25)
    assert counts(rows) == {True: 40, False: 40}
    assert rows == [row for row in SINGLES.rows if row in rows]


def test_demonstrations_have_no_sides(make: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "demonstrations.jsonl").write_text('{"prompt": "w1", "completion": "w2"}\n' * 4)
    for field in ("keep_desirable=0.5", "label_noise=0.1"):
        with pytest.raises(ConfigError, match=r"feedback\.keep_desirable.*no undesirable side"):
            make(f"feedback.path={tmp_path / 'demonstrations.jsonl'}", "loss=sft", f"feedback.{field}")


def test_what_has_no_such_side_is_refused() -> None:
    with pytest.raises(FeedbackError, match=r"no desirable completion to take 0\.5 of"):
        kept(Feedback("binary", [Binary("b", user("q"), "text", False)]), keep_desirable=0.5)


def test_the_kind_that_losses_get() -> None:
    assert trained_kind(Source()) == "paired"
    assert (
        trained_kind(Source(keep_undesirable=0.5)) == trained_kind(Source(one_completion_per_prompt=True)) == "binary"
    )


def test_paired_losses_are_refused_with_the_fields(make: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"feedback\.keep_desirable.*'dpo' needs paired feedback; choose a loss for"):
        make("loss=dpo", "feedback.keep_desirable=0.5")
    with pytest.raises(ConfigError, match=r"feedback\.keep_undesirable"):
        make("feedback.keep_undesirable=0")


def test_only_what_is_trained_on_changes(make: MakeConfig) -> None:
    """The start, the held-out prompts and every fingerprint without subsampling are what they were."""
    whole, part = (describe(make("start=sft", *more))[0].stages for more in ([], ["feedback.keep_desirable=0.25"]))
    same = {name for name in whole if part[name].fingerprint == whole[name].fingerprint}
    assert same == {"checkpoint", "feedback", "tokens/demonstrations", "sft"}
    assert set(part) - set(whole) == {"subsample"}
    other = describe(make("start=sft", "feedback.keep_desirable=0.25", "feedback.keep_seed=1"))[0].stages
    assert other["subsample"].fingerprint != part["subsample"].fingerprint


def test_a_run_learns_from_the_part_and_records_it(make: MakeConfig, tmp_path: Path) -> None:
    config = make("feedback.keep_desirable=0.25", "train.steps=2")
    assert execute(config) == "done"
    plan, record = describe(config)
    data = json.loads((record.folder / "data.json").read_text())
    pairs = data["rows"]
    assert data["subsample"]["before"]["desirable"] == data["subsample"]["before"]["undesirable"] == pairs
    assert data["subsample"]["kept"]["desirable"] == round(pairs / 4)
    assert data["subsample"]["rows"] == round(pairs / 4) + pairs
    rows = (tmp_path / "artifacts" / "subsample" / plan.fingerprints["subsample"] / "train.jsonl").read_text()
    assert len(rows.splitlines()) == data["subsample"]["rows"]
    named = gzip.decompress((record.folder / "trained_on.tsv.gz").read_bytes()).decode().splitlines()
    assert named[0].split("\t") == ["id", "prompt_sha256", "desirable", "turned"]
    assert [json.loads(line.split("\t")[0]) for line in named[1:]] == [
        json.loads(row)["id"] for row in rows.splitlines()
    ]
    assert sum(line.split("\t")[2] == "1" for line in named[1:]) == round(pairs / 4)
    heldout = (tmp_path / "artifacts" / "feedback" / plan.fingerprints["feedback"] / "heldout.jsonl").read_text()
    asked = [json.loads(line)["prompt_id"] for line in (record.folder / "completions.jsonl").read_text().splitlines()]
    assert asked == [json.loads(line)["id"] for line in heldout.splitlines()]


def test_noise_turns_labels_of_what_is_trained_on_only(make: MakeConfig) -> None:
    config = make("loss=dpo", "feedback.label_noise=0.25", "train.steps=2", "evaluation.prompts.limit=4")
    assert execute(config) == "done"
    plan, record = describe(config)
    data = json.loads((record.folder / "data.json").read_text())
    assert data["subsample"] == {
        "kind": "paired",
        "rows": data["rows"],
        "label_noise": {"share": 0.25, "rows": round(data["rows"] / 4)},
    }
    folder = config.run.artifacts / "subsample" / plan.fingerprints["subsample"]
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    turned = {row["id"] for row in rows if row["rejected"] != " ".join([row["rejected"].split()[0]] * 4)}
    named = gzip.decompress((record.folder / "trained_on.tsv.gz").read_bytes()).decode().splitlines()[1:]
    assert {json.loads(line.split("\t")[0]) for line in named if line.endswith("\t1")} == turned
    assert len(turned) == round(data["rows"] / 4)
    clean = describe(make("loss=dpo"))[0].fingerprints
    assert clean["feedback"] == plan.fingerprints["feedback"]
    assert clean["align"] != plan.fingerprints["align"]


def test_noise_and_a_part_go_together() -> None:
    source = Source(keep_desirable=0.5, label_noise=0.1)
    rows, summary = trained_part(PAIRS, source)
    assert summary["kept"] == {"desirable": 100, "undesirable": 200, "prompts": summary["kept"]["prompts"]}
    assert summary["label_noise"]["rows"] == 30
    flips = summary["label_noise"]
    assert counts(rows.rows)[True] == 100 - flips["desirable_to_undesirable"] + flips["undesirable_to_desirable"]
    ids = [trained_part(PAIRS, Source(label_noise=0.1, keep_seed=seed))[1]["label_noise"]["ids"] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert "label_noise" not in Source(keep_desirable=0.5).subsampling, "parts without noise are called what they were"
