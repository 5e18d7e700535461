from __future__ import annotations

import pytest

from kto_bench.component import ConfigError
from kto_bench.feedback.conversions import as_demonstrations, can_serve
from kto_bench.feedback.splits import split_by_prompt
from kto_bench.feedback.types import Binary, Demonstration, Feedback, FeedbackError, Paired

KINDS = ("paired", "binary", "demonstrations")


def user(text):
    return ({"role": "user", "content": text},)


def pairs(count, prompts=None):
    prompts = prompts or count
    return Feedback(
        "paired", [Paired(f"p{n}", user(f"q{n % prompts}"), f"good {n}", f"bad {n}") for n in range(count)], {"why": 1}
    )


def test_demonstrations_are_the_good_side_in_order():
    expected = [Demonstration(f"p{n}", user(f"q{n}"), f"good {n}") for n in range(3)]
    shown = as_demonstrations(pairs(3))
    assert shown == Feedback("demonstrations", expected)
    assert as_demonstrations(shown) is shown
    binary = Feedback("binary", [Binary("x", user("q"), "bad", False), Binary("y", user("q"), "good", True)])
    assert [row.completion for row in as_demonstrations(binary).rows] == ["good"]


@pytest.mark.parametrize("available", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_richer_feedback_serves_poorer_losses(available, wanted):
    assert can_serve(available, wanted) == (KINDS.index(available) <= KINDS.index(wanted))


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
    with pytest.raises(FeedbackError, match="all rows have the same"):
        split_by_prompt(pairs(3, prompts=1), 0.5, seed=0)
    for fraction in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=f"feedback.heldout_fraction: {fraction} is not allowed"):
            split_by_prompt(feedback, fraction, seed=0)
