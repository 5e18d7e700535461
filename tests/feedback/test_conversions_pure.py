"""Scores, label noise, repetitions and splits: pure functions of rows, with numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kto_bench.feedback.conversions import as_binary, as_kind, poorest, question_key
from kto_bench.feedback.duplicates import repetitions
from kto_bench.feedback.noise import with_noise
from kto_bench.feedback.scores import Scored, ScoreRule, labels, preferred
from kto_bench.feedback.splits import split_by_prompt, without_prompts
from kto_bench.feedback.types import Binary, Demonstration, Feedback, Paired


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


PAIRS = Feedback("paired", [Paired(f"p{n}", user(f"q{n // 2}"), f"good {n}", f"bad {n}") for n in range(200)])
SINGLES = Feedback("binary", [Binary(f"b{n}", user(f"q{n}"), f"text {n}", n % 5 == 0) for n in range(200)])


def scored(*scores: float, prompt: str = "q") -> list[Scored]:
    return [Scored(f"{n}", "here", user(prompt), f"text {n}", score) for n, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("rule", "scores", "expected"),
    [
        ({"threshold": 4}, (3, 4, 5), [False, True, True]),
        ({"threshold": 4, "margin": 1}, (2, 3, 3.5, 4, 5), [False, False, None, None, True]),
        ({"threshold": "prompt_mean"}, (1, 2, 6), [False, False, True]),
        ({"threshold": "prompt_mean", "margin": 2}, (1, 2, 6), [False, None, True]),
        ({"threshold": "prompt_mean"}, (3, 3), [None, None]),
        ({"threshold": "prompt_mean"}, (3,), [None]),
        ({"threshold": "prompt_mean"}, (0.1, 0.1, 0.1), [None, None, None]),  # their sum by floats is above 0.3
    ],
)
def test_scores_to_labels(rule: dict[str, Any], scores: tuple[float, ...], expected: list[bool | None]) -> None:
    assert labels(scored(*scores), ScoreRule(**rule)) == expected


def test_the_mean_is_of_the_same_prompt() -> None:
    rows = [*scored(1, 3, prompt="a"), *scored(7, 9, prompt="b")]
    assert labels(rows, ScoreRule()) == [False, True, False, True]


def test_scores_to_pairs() -> None:
    low, high = scored(2, 4)
    assert preferred(low, high, ScoreRule()) == preferred(high, low, ScoreRule(margin=2)) == (high, low)
    assert preferred(low, high, ScoreRule(margin=2.5)) is None
    assert preferred(low, replace(low, completion="x"), ScoreRule()) is None


@pytest.mark.parametrize(("share", "turned"), [(0.0, 0), (0.1, 20), (0.123, 25), (1.0, 200)])
def test_noise_is_exact_seeded_and_grows(share: float, turned: int) -> None:
    noisy, counts = with_noise(SINGLES, share, 0)
    differ = {new.id for new, old in zip(noisy.rows, SINGLES.rows, strict=True) if new.label != old.label}
    assert len(differ) == counts["rows"] == counts["desirable_to_undesirable"] + counts["undesirable_to_desirable"]
    assert len(differ) == turned
    assert set(counts["ids"]) == differ
    assert [replace(row, label=True) for row in noisy.rows] == [replace(row, label=True) for row in SINGLES.rows]
    assert differ <= set(with_noise(SINGLES, min(1.0, share + 0.2), 0)[1]["ids"])
    backwards = with_noise(Feedback("binary", SINGLES.rows[::-1]), share, 0)[1]["ids"]
    assert set(backwards) == differ
    if 0 < share < 1:
        assert set(with_noise(SINGLES, share, 1)[1]["ids"]) != differ


def test_noise_swaps_the_sides_of_pairs() -> None:
    noisy, counts = with_noise(PAIRS, 0.25, 0)
    swapped = [row for row in noisy.rows if row.chosen.startswith("bad")]
    assert len(swapped) == counts["rows"] == 50
    assert all(row.rejected.removeprefix("good") == row.chosen.removeprefix("bad") for row in swapped)
    shown = Feedback("demonstrations", [Demonstration("a", user("q"), "text")])
    assert with_noise(shown, 0.5, 0)[0] is shown


def test_repetitions_of_single_completions() -> None:
    rows = [
        Binary("a", user("q"), "x", True),
        Binary("b", user("q"), "x", True),
        Binary("c", user("q"), "x", False),
        Binary("d", user("q"), "y", False),
        Binary("e", user("r"), "x", False),
    ]
    found = repetitions(Feedback("binary", rows))
    assert found == {
        "duplicates": {"count": 1, "ids": [["a", "b"]]},
        "contradictions": {"count": 1, "ids": [["a", "c"]]},
    }


def test_repetitions_of_pairs() -> None:
    rows = [
        Paired("a", user("q"), "x", "y"),
        Paired("b", user("q"), "y", "x"),
        Paired("c", user("q"), "x", "y"),
        Paired("d", user("r"), "1", "2"),
        Paired("e", user("r"), "2", "3"),
    ]
    found = repetitions(Feedback("paired", rows))
    assert found["duplicates"] == {"count": 1, "ids": [["a", "c"]]}
    assert found["contradictions"] == {"count": 1, "ids": [["a", "b"]]}
    assert found["in_both_classes"]["count"] == 3, "x, y, and the middle of a ranking, 2"


def test_kinds() -> None:
    assert poorest(["paired", "binary"]) == "binary"
    assert poorest(["paired", "demonstrations", "binary"]) == "demonstrations"
    pair = Feedback("paired", [Paired("a", user("q"), "x", "y", "part")], {"why": 1})
    binary = as_binary(pair)
    assert binary.rows == [
        Binary("a/chosen", user("q"), "x", True, "part"),
        Binary("a/rejected", user("q"), "y", False, "part"),
    ]
    assert binary.dropped == {"why": 1}
    assert as_kind(pair, "demonstrations").rows == [Demonstration("a", user("q"), "x", "part")]
    with pytest.raises(ValueError, match="binary feedback cannot be read as paired"):
        as_kind(binary, "paired")


def test_prompts_that_differ_in_case_and_space_only_are_on_one_side() -> None:
    rows = [Binary(f"{n}{m}", user(form), "x", True) for n in range(60) for m, form in enumerate(
        [f"Question {n}?", f"question  {n}?", f" QUESTION {n}?\n"])]  # fmt: skip
    train, heldout = split_by_prompt(Feedback("binary", rows), 0.3, 0)
    sides = [{question_key(row.prompt) for row in part.rows} for part in (train, heldout)]
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0]) + len(sides[1]) == 60
    assert len(train) + len(heldout) == 180


def test_a_prompt_of_a_published_test_split_is_not_trained_on() -> None:
    left = without_prompts(PAIRS, [Demonstration("t", user("Q3"), "x")])
    assert len(left) == 198
    assert left.dropped == {"the prompt is held out": 2}
    assert left.first_dropped == {"the prompt is held out": "row p6"}
    assert without_prompts(PAIRS, []) is PAIRS
