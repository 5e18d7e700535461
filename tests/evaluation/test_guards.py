import pytest

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.guards import repetition, score_guards


def row(completion: str, tokens: int, ended: bool = True) -> dict:
    return {"prompt_id": "p", "completion": completion, "tokens": tokens, "ended": ended}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("a b c", 0.0),  # no 4-gram
        ("a b c d", 0.0),
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("a a a a a a", 2 / 3),  # three times aaaa
        ("a  b\tc\nd a b c d e", 1 / 6),  # any whitespace separates
        ("x y z w y z w v", 0.0),  # shared words, no shared 4-gram
    ],
)
def test_repetition_by_hand(text, expected):
    assert repetition(text) == pytest.approx(expected)


def test_guards_by_hand():
    rows = [row("a a a a a a", 6, ended=False), row(" \n", 1), row("a b c d a b c d", 9), row("fine", 4)]
    assert score_guards(rows) == {
        "n": 4,
        "mean_tokens": 5.0,
        "share_capped": 0.25,
        "share_empty": 0.25,
        "repetition_4gram": pytest.approx((2 / 3 + 1 / 5) / 4),
    }


def test_every_turn_counts():
    turns = [row("fine", 4), row("", 0, ended=False)]
    guards = score_guards([{**turns[0], "turns": turns}, row("fine", 2)])
    assert guards["n"] == 2
    assert guards["mean_tokens"] == 2.0
    assert guards["share_capped"] == guards["share_empty"] == pytest.approx(1 / 3)


def test_no_completions_is_no_score():
    with pytest.raises(EvaluationError, match="no completions"):
        score_guards([])
