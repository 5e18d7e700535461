from __future__ import annotations

import pytest

from kto_bench.component import ConfigError
from kto_bench.feedback.conversions import as_demonstrations, can_serve, split_by_prompt, to_kind, unpair
from kto_bench.feedback.types import Binary, Demonstration, Feedback, FeedbackError, Paired

KINDS = ("paired", "binary", "demonstrations")


def user(text):
    return ({"role": "user", "content": text},)


def pairs(count, prompts=None):
    prompts = prompts or count
    return Feedback(
        "paired", [Paired(f"p{n}", user(f"q{n % prompts}"), f"good {n}", f"bad {n}") for n in range(count)], {"why": 1}
    )


def test_unpair_keeps_everything_once():
    binary = unpair(pairs(50), seed=0)
    assert binary.kind == "binary"
    assert binary.dropped == {"why": 1}
    assert len({row.id for row in binary.rows}) == 100
    assert Binary("p3/chosen", user("q3"), "good 3", True) in binary.rows
    assert Binary("p3/rejected", user("q3"), "bad 3", False) in binary.rows


def test_unpair_mixes_the_labels_and_parts_the_pairs():
    rows = unpair(pairs(2500), seed=0).rows
    labels = [row.label for row in rows]
    assert all(0 < sum(labels[start : start + 50]) < 50 for start in range(0, 5000, 50))
    together = sum(first.prompt == second.prompt for first, second in zip(rows[::2], rows[1::2], strict=True))
    assert together < 10  # 0.5 are expected by chance, 2,500 without the shuffle


def test_unpair_is_seeded():
    assert unpair(pairs(50), 1) == unpair(pairs(50), 1)
    assert unpair(pairs(50), 1) != unpair(pairs(50), 2)
    with pytest.raises(FeedbackError, match="expected paired feedback, got binary"):
        unpair(unpair(pairs(5), 1), 1)


def test_demonstrations_are_the_good_side_in_order():
    expected = [Demonstration(f"p{n}", user(f"q{n}"), f"good {n}") for n in range(3)]
    shown = as_demonstrations(pairs(3))
    assert shown == Feedback("demonstrations", expected, {"why": 1})
    assert as_demonstrations(shown) is shown
    assert {row.completion for row in as_demonstrations(unpair(pairs(3), 0)).rows} == {"good 0", "good 1", "good 2"}
    with pytest.raises(FeedbackError, match="no completion of the feedback is desirable"):
        as_demonstrations(Feedback("binary", [Binary("x", user("q"), "a", False)]))


@pytest.mark.parametrize("available", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_to_kind_agrees_with_can_serve(available, wanted):
    feedback = to_kind(pairs(4), available, seed=0)
    assert can_serve(available, wanted) == (KINDS.index(available) <= KINDS.index(wanted))
    if can_serve(available, wanted):
        assert to_kind(feedback, wanted, seed=0).kind == wanted
    else:
        with pytest.raises(ConfigError, match=rf"learns from {wanted} feedback, but there is {available} feedback"):
            to_kind(feedback, wanted, seed=0)


def test_refusal_says_what_fits():
    with pytest.raises(
        ConfigError, match="Choose paired feedback, or a loss that learns from binary or demonstrations"
    ):
        to_kind(unpair(pairs(4), 0), "paired", 0)


def prompts_of(feedback):
    return {row.prompt[0]["content"] for row in feedback.rows}


def test_split_shares_no_prompt_and_loses_no_row():
    feedback = pairs(2000, prompts=500)
    train, heldout = split_by_prompt(feedback, 0.1, seed=0)
    assert not prompts_of(train) & prompts_of(heldout)
    assert sorted(row.id for row in [*train.rows, *heldout.rows]) == sorted(row.id for row in feedback.rows)
    assert 30 <= len(prompts_of(heldout)) <= 75  # 50 expected, standard deviation 6.7
    held = prompts_of(heldout)
    assert train.rows == [row for row in feedback.rows if row.prompt[0]["content"] not in held]
    assert (train.dropped, heldout.dropped) == ({"why": 1}, {})


def test_split_is_seeded_and_does_not_depend_on_other_rows():
    whole = prompts_of(split_by_prompt(pairs(500), 0.2, seed=0)[1])
    half = prompts_of(split_by_prompt(pairs(250), 0.2, seed=0)[1])
    assert half == {prompt for prompt in whole if int(prompt[1:]) < 250}
    assert whole != prompts_of(split_by_prompt(pairs(500), 0.2, seed=1)[1])
    assert whole < prompts_of(split_by_prompt(pairs(500), 0.3, seed=0)[1])


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_split_leaves_no_side_empty(fraction):
    train, heldout = split_by_prompt(pairs(6, prompts=3), fraction, seed=0)
    assert len(train) >= 2
    assert len(heldout) >= 2


def test_split_edges():
    feedback = pairs(3)
    assert split_by_prompt(feedback, 0, seed=0) == (feedback, Feedback("paired", []))
    with pytest.raises(FeedbackError, match="all rows have the same one"):
        split_by_prompt(pairs(3, prompts=1), 0.5, seed=0)
    for fraction in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=f"heldout fraction: {fraction} is not allowed"):
            split_by_prompt(feedback, fraction, seed=0)
