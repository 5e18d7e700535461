"""Several sources as one: exact shares, one kind, rows that say where they come from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kto_bench.component import ConfigError, build
from kto_bench.feedback.mixtures import counts_of, mix
from kto_bench.feedback.preparation import prepare
from kto_bench.feedback.types import (
    Binary,
    Demonstration,
    Feedback,
    FeedbackError,
    FeedbackKind,
    FeedbackSource,
    Paired,
)


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


PAIRS = Feedback("paired", [Paired(f"{n}", user(f"p{n}"), f"good {n}", f"bad {n}") for n in range(30)], {"why": 2})
SINGLES = Feedback("binary", [Binary(f"{n}", user(f"b{n}"), f"text {n}", n % 3 == 0) for n in range(20)])


@pytest.mark.parametrize(
    ("available", "weights", "rows", "counts"),
    [
        ({"a": 10, "b": 90}, {}, None, {"a": 10, "b": 90}),
        ({"a": 10, "b": 90}, {}, 50, {"a": 5, "b": 45}),
        ({"a": 10, "b": 90}, {"a": 1, "b": 2}, None, {"a": 10, "b": 20}),
        ({"a": 10, "b": 90}, {"a": 1, "b": 1}, 8, {"a": 4, "b": 4}),
        ({"a": 100, "b": 100, "c": 100}, {"a": 1, "b": 1, "c": 1}, 100, {"a": 34, "b": 33, "c": 33}),
        ({"a": 7, "b": 9}, {"a": 0.3, "b": 0.7}, None, {"a": 4, "b": 8}),
    ],
)
def test_counts(available: Any, weights: Any, rows: Any, counts: Any) -> None:
    assert counts_of(available, weights, rows) == counts
    assert rows is None or sum(counts.values()) == rows


def test_too_few_rows_name_the_part_and_what_is_possible() -> None:
    with pytest.raises(FeedbackError, match=r"need 20 of 'a', which has 10; at most 20 rows are possible"):
        counts_of({"a": 10, "b": 90}, {"a": 1, "b": 1}, 40)


def test_a_mixture_takes_whole_rows_at_random_in_their_order() -> None:
    mixed = mix({"x": PAIRS, "y": PAIRS}, {"x": 1, "y": 2}, 30, 0)
    assert Counter(row.source for row in mixed.rows) == {"x": 10, "y": 20}
    assert len({row.id for row in mixed.rows}) == 30
    assert [int(row.id[2:]) for row in mixed.rows if row.source == "x"] == sorted(
        int(row.id[2:]) for row in mixed.rows if row.source == "x"
    )
    assert mixed.dropped == {"x: why": 2, "y: why": 2}
    other = mix({"x": PAIRS, "y": PAIRS}, {"x": 1, "y": 2}, 30, 1)
    assert {row.id for row in mixed.rows} != {row.id for row in other.rows}
    more = mix({"x": PAIRS, "y": PAIRS}, {"x": 1, "y": 1}, 40, 0)
    assert {row.id for row in mixed.rows if row.source == "x"} < {row.id for row in more.rows}


def test_the_kind_is_what_all_parts_can_serve() -> None:
    mixed = mix({"pairs": PAIRS, "singles": SINGLES}, {}, None, 0)
    assert mixed.kind == "binary"
    assert Counter(row.source for row in mixed.rows) == {"pairs": 60, "singles": 20}
    shown = Feedback("demonstrations", [Demonstration("0", user("d"), "text")])
    mixed = mix({"pairs": PAIRS, "shown": shown}, {}, None, 0)
    assert (mixed.kind, len(mixed)) == ("demonstrations", 31)


def node(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    parts = {}
    for name, rows in {
        "pairs": [{"prompt": f"w{n}", "chosen": f"w{n} w2", "rejected": "w3"} for n in range(40)],
        "singles": [{"prompt": f"w{n} w9", "completion": f"w{n}", "label": n % 2 == 0} for n in range(40)],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        parts[name] = {
            "_target_": "kto_bench.feedback.sources.jsonl.JsonlFeedback",
            "path": str(tmp_path / f"{name}.jsonl"),
        }
    return {"_target_": "kto_bench.feedback.sources.mixture.MixtureFeedback", "parts": parts, **fields}


def test_the_source(tmp_path: Path) -> None:
    source = build(node(tmp_path, weights={"pairs": 3, "singles": 1}, heldout_fraction=0.1), FeedbackSource, "feedback")
    assert source.kind() == "binary"
    prepared = prepare(source, {})
    assert sum(prepared.summary["sources"].values()) == prepared.summary["rows"] == len(prepared.train)
    assert len(prepared.train) + len(prepared.heldout) == 80 + 27 - 1  # 106 = the most with 3 : 1 of 80 and 40
    prompts = [{row.prompt[0]["content"] for row in part.rows} for part in (prepared.train, prepared.heldout)]
    assert not prompts[0] & prompts[1]
    again = build(node(tmp_path, weights={"pairs": 3, "singles": 1}, heldout_fraction=0.1), FeedbackSource, "feedback")
    before = again.identity()
    assert before == source.identity()
    other = build(node(tmp_path, weights={"pairs": 1, "singles": 1}), FeedbackSource, "feedback")
    assert other.identity() != source.identity()
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "w1", "chosen": "w1", "rejected": "w3"}\n')
    assert again.identity() != before


def test_the_order_in_which_parts_are_given_is_nothing_to_rows_or_fingerprints(tmp_path: Path) -> None:
    fields = node(tmp_path, weights={"pairs": 1, "singles": 1}, rows=41)
    turned = {**fields, "parts": dict(reversed(fields["parts"].items()))}
    one, other = (build(given, FeedbackSource, "feedback") for given in (fields, turned))
    assert one.identity() == other.identity()
    assert one.load() == other.load()


class Ranked(FeedbackSource):
    """A part with a test split and demonstrations of its own."""

    name: str = "ranked"

    @property
    def holds_out(self) -> bool:
        return True

    def kind(self) -> FeedbackKind:
        return "paired"

    def load(self) -> Feedback:
        return Feedback("paired", [Paired(f"{n}", user(f"w{n}"), f"good {n}", f"bad {n}") for n in range(30, 50)])

    def heldout(self) -> Feedback:
        return Feedback("paired", [Paired(f"t{n}", user(f"W{n}"), "x", "y") for n in range(35, 45)])

    def demonstrations(self) -> Feedback:
        return Feedback("demonstrations", [Demonstration(f"d{n}", user(f"w{n}"), "shown") for n in range(30, 50)])


def test_a_test_split_of_one_part_is_held_out_of_all_parts_and_demonstrations(tmp_path: Path) -> None:
    fields = node(tmp_path)
    parts = {**fields["parts"], "ranked": Ranked()}
    prepared = prepare(build({**fields, "parts": parts}, FeedbackSource, "feedback"), {})
    held = {f"w{n}" for n in range(35, 45)}
    assert {row.prompt[0]["content"].lower() for row in prepared.heldout.rows} == held
    assert {row.source for row in prepared.heldout.rows} == {"ranked"}
    for part in (prepared.train, prepared.demonstrations):
        assert not {row.prompt[0]["content"] for row in part.rows} & held
        assert {row.source for row in part.rows} == {"pairs", "singles", "ranked"}
    assert len(prepared.train) == 2 * 35 + 40 + 2 * 10, "w35 to w39 are among the pairs, too"
    shown = Counter(row.source for row in prepared.demonstrations.rows)
    assert shown == {"pairs": 35, "singles": 20, "ranked": 10}
    assert {row.completion for row in prepared.demonstrations.rows if row.source == "ranked"} == {"shown"}


def test_what_is_refused(tmp_path: Path) -> None:
    cases = {
        r"weights: \['pairs'\] are not the parts": {"weights": {"pairs": 1}},
        r"choose numbers above 0": {"weights": {"pairs": 1, "singles": 0}},
        r"feedback.parts": {"parts": {}},
    }
    for message, fields in cases.items():
        with pytest.raises(ConfigError, match=message):
            build(node(tmp_path, **fields), FeedbackSource, "feedback")
    wrong = node(tmp_path)
    wrong["parts"]["pairs"]["label_noise"] = 0.5
    with pytest.raises(ConfigError, match=r"feedback.parts.pairs: .*are said of the whole mixture"):
        build(wrong, FeedbackSource, "feedback")
    wrong["parts"]["pairs"] = {"_target_": "kto_bench.feedback.sources.jsonl.JsonlFeedback", "pat": "x"}
    with pytest.raises(ConfigError, match=r"feedback.parts.pairs.pat: unknown field"):
        build(wrong, FeedbackSource, "feedback")
