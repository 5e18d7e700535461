"""Held-out feedback as evaluation prompts."""

from __future__ import annotations

import pytest

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prompts import HeldOutFeedback
from kto_bench.feedback.types import Binary, Demonstration, Feedback, Paired
from kto_bench.sandbox.prompts import SandboxPrompts


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


def test_validation_and_test_share_no_prompt_and_leave_none_out() -> None:
    """Whatever else is asked, a prompt stays on its side."""
    many = Feedback("demonstrations", [Demonstration(str(i), user(f"question {i}"), "answer") for i in range(200)])
    source = HeldOutFeedback()
    everything = source.part(many, "all")
    validation, test = source.part(many, "validation"), source.part(many, "test")
    assert sorted(prompt.id for prompt in [*validation, *test]) == sorted(prompt.id for prompt in everything)
    assert not {prompt.id for prompt in validation} & {prompt.id for prompt in test}
    assert 70 < len(validation) < 130
    fewer = Feedback("demonstrations", many.rows[:50])
    assert source.part(fewer, "test") == [prompt for prompt in test if int(prompt.id) < 50]
    one = Feedback("demonstrations", [Demonstration("v", validation[0].prompt, "answer")])
    with pytest.raises(EvaluationError, match=r"evaluation\.split: none of the 1 prompts of 'heldout' is for test"):
        source.part(one, "test")


def test_a_sandbox_question_is_on_one_side_in_all_its_wordings() -> None:
    source = SandboxPrompts(count=2000)
    sides = {split: source.part(Feedback("paired", []), split) for split in ("validation", "test")}
    cores = {split: {source.same_question(prompt.prompt) for prompt in prompts} for split, prompts in sides.items()}
    assert not cores["validation"] & cores["test"]
    assert len(cores["test"]) < len(sides["test"]), "some questions are asked in several wordings"
    assert min(map(len, sides.values())) > 600
