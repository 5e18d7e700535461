"""Held-out feedback as evaluation prompts."""

from __future__ import annotations

import pytest

from kto_bench.evaluation.prompts import HeldOutFeedback
from kto_bench.feedback.types import Binary, Demonstration, Feedback, Paired


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


@pytest.mark.parametrize(
    "heldout",
    [
        Feedback("paired", [Paired(f"{q}{i}", user(q), f"good {q}", f"bad {i}") for q in "ab" for i in range(2)]),
        Feedback(
            "binary",
            [
                Binary("a0", user("a"), "good a", True),
                Binary("c0", user("c"), "bad", False),
                Binary("b-", user("b"), "bad", False),
                Binary("b0", user("b"), "good b", True),
            ],
        ),
        Feedback("demonstrations", [Demonstration(f"{q}0", user(q), f"good {q}") for q in "aba"]),
    ],
    ids=lambda feedback: feedback.kind,
)
def test_each_prompt_once_with_its_good_completion(heldout: Feedback) -> None:
    prompts = HeldOutFeedback().load(heldout)
    assert [(prompt.id, prompt.prompt, prompt.reference) for prompt in prompts] == [
        ("a0", user("a"), "good a"),
        ("b0", user("b"), "good b"),
    ]
    assert [prompt.id for prompt in HeldOutFeedback(limit=1).load(heldout)] == ["a0"]
