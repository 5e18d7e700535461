"""What a run uses of a source: no held-out prompt is trained on or demonstrated, and everything is counted."""

from __future__ import annotations

import pytest

from kto_bench.feedback.preparation import prepare
from kto_bench.feedback.types import (
    Decontamination,
    Demonstration,
    Feedback,
    FeedbackError,
    FeedbackKind,
    FeedbackSource,
    Paired,
)


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


class Source(FeedbackSource):
    name: str = "test"
    own: bool = True

    def kind(self) -> FeedbackKind:
        return "paired"

    def load(self) -> Feedback:
        rows = [Paired(f"{n}", user(f"question {n % 50}"), f"good {n}", f"bad {n}", "part") for n in range(100)]
        return Feedback("paired", rows, {"why": 1}, {"why": "there"})

    def heldout(self) -> Feedback | None:
        rows = [Paired(f"h{n}", user(f"Question  {n}"), "x", "y") for n in range(5)]
        return Feedback("paired", rows) if self.own else None

    def demonstrations(self) -> Feedback | None:
        rows = [Demonstration(f"d{n}", user(f"question {n}"), f"shown {n}") for n in range(20)]
        return Feedback("demonstrations", rows) if self.own else None


def test_the_prompts_of_an_own_test_split_are_trained_on_in_neither_set() -> None:
    prepared = prepare(Source(), {})
    assert len(prepared.heldout) == 5
    assert [row.id for row in prepared.train.rows] == [f"{n}" for n in range(100) if n % 50 >= 5]
    assert [row.id for row in prepared.demonstrations.rows] == [f"d{n}" for n in range(5, 20)]
    assert prepared.summary == {
        "kind": "paired",
        "rows": 90,
        "heldout_rows": 5,
        "demonstrations": 15,
        "prompts": {"train": 45, "heldout": 5},
        "dropped": {"why": 1, "the prompt is held out": 10},
        "first_dropped": {"why": "there", "the prompt is held out": "row 0"},
        "demonstrations_dropped": {"the prompt is held out": 5},
        "sources": {"part": 90},
        "repetitions": {
            "duplicates": {"count": 0, "ids": []},
            "contradictions": {"count": 0, "ids": []},
            "in_both_classes": {"count": 0, "ids": []},
        },
    }


def test_without_one_a_share_is_held_out_and_the_chosen_are_the_demonstrations() -> None:
    prepared = prepare(Source(own=False, heldout_fraction=0.2), {})
    assert len(prepared.train) + len(prepared.heldout) == 100
    assert [row.completion for row in prepared.demonstrations.rows] == [row.chosen for row in prepared.train.rows]
    sides = [{row.prompt[0]["content"] for row in part.rows} for part in (prepared.train, prepared.heldout)]
    assert not sides[0] & sides[1]
    assert prepared.summary["prompts"] == {"train": len(sides[0]), "heldout": len(sides[1])}
    assert prepare(Source(own=False), {}).heldout.rows == []


def test_demonstrations_are_decontaminated_too_and_held_out_prompts_are_not() -> None:
    texts = {"suite": ["question 7", "shown 9", "question 3"]}
    prepared = prepare(Source(decontaminate=Decontamination(words=2)), texts)
    assert {row.prompt[0]["content"] for row in prepared.train.rows}.isdisjoint({"question 7"})
    assert prepared.summary["contaminated"]["left_out"] == 2
    assert prepared.summary["contaminated_demonstrations"]["left_out"] == 2
    assert [row.id for row in prepared.demonstrations.rows] == [f"d{n}" for n in range(5, 20) if n not in (7, 9)]
    assert len(prepared.heldout) == 5
    chosen = prepare(Source(own=False, decontaminate=Decontamination(words=2)), {"suite": ["good 1"]})
    assert "1" not in {row.id for row in chosen.demonstrations.rows}


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(FeedbackError, match=r"no row is left to train on; left out: .*shares words with.*90"):
        prepare(Source(decontaminate=Decontamination(words=2)), {"suite": [f"question {n}" for n in range(50)]})
