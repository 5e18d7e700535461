"""The schedule of steps: who is in a batch, and who is paired with whose prompt."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import Step, desirable_of, mismatch, schedule, units_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.types import FeedbackKind


def tokenised(kind: FeedbackKind, completions: int, desirable: list[bool] | None = None) -> TokenisedFeedback:
    per_prompt = 2 if kind == "paired" else 1
    prompts = completions // per_prompt
    return TokenisedFeedback(
        kind=kind,
        prompts=[[1, 10 + i] for i in range(prompts)],
        prompt_of=np.repeat(np.arange(prompts), per_prompt),
        completions=[[20 + i, 2] for i in range(completions)],
        desirable=None if desirable is None else np.array(desirable),
        ids=[str(i // per_prompt) for i in range(completions)],
        truncated={},
    )


def steps_of(data: TokenisedFeedback, kind: FeedbackKind, **changes: object) -> list[Step]:
    options = {"completions_per_step": 4, "epochs": 1, "steps": None, "seed": 0, "mismatched": False, **changes}
    return schedule(units_of(data, kind), data.prompt_of, **options)  # type: ignore[arg-type]


def test_a_pair_counts_as_two_completions() -> None:
    """12 pairs are 24 completions: at 4 per step, 6 steps of 2 pairs, or of 4 single completions."""
    data = tokenised("paired", 24)
    paired, binary = steps_of(data, "paired"), steps_of(data, "binary")
    assert [step.units.shape for step in paired] == [(2, 2)] * 6
    assert [step.units.shape for step in binary] == [(4, 1)] * 6


def test_an_epoch_shows_each_example_once() -> None:
    data = tokenised("paired", 24)
    for kind in ("paired", "binary"):
        seen = np.concatenate([step.units.ravel() for step in steps_of(data, kind)])
        assert sorted(seen) == list(range(24))


def test_pairs_stay_together_chosen_first() -> None:
    for step in steps_of(tokenised("paired", 24), "paired"):
        assert (step.units[:, 0] % 2 == 0).all()
        assert (step.units[:, 1] == step.units[:, 0] + 1).all()


def test_unpaired_data_are_shuffled_across_classes() -> None:
    """TRL feeds long blocks of one label; here both classes are in nearly every batch of 64."""
    data = tokenised("paired", 2048)
    shares = [desirable_of(data)[step.units].mean() for step in steps_of(data, "binary", completions_per_step=64)]
    assert min(shares) > 0.2
    assert max(shares) < 0.8


def test_demonstrations_are_the_good_side() -> None:
    assert units_of(tokenised("paired", 6), "demonstrations").ravel().tolist() == [0, 2, 4]
    binary = tokenised("binary", 4, [True, False, False, True])
    assert units_of(binary, "demonstrations").ravel().tolist() == [0, 3]


def test_steps_repeat_the_data_as_often_as_needed() -> None:
    steps = steps_of(tokenised("paired", 8), "binary", steps=5)
    counts = Counter(np.concatenate([step.units.ravel() for step in steps]).tolist())
    assert len(steps) == 5
    assert set(counts.values()) == {2, 3}


def test_the_last_incomplete_batch_of_the_budget_is_dropped() -> None:
    assert len(steps_of(tokenised("binary", 10, [True] * 10), "binary")) == 2


def test_the_order_depends_on_the_seed_and_differs_between_epochs() -> None:
    data = tokenised("binary", 64, [True] * 64)
    same, again, other = (
        np.concatenate([step.units.ravel() for step in steps_of(data, "binary", epochs=2, seed=seed)])
        for seed in (0, 0, 1)
    )
    assert (same == again).all()
    assert (same != other).any()
    assert (same[:64] != same[64:]).any()


def test_too_few_data_for_one_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="completions_per_step: 64 is more than one pass"):
        steps_of(tokenised("paired", 8), "binary", completions_per_step=64)


def test_a_step_of_one_prompt_cannot_estimate_a_reference_point() -> None:
    data = tokenised("paired", 2)
    with pytest.raises(ConfigError, match="completions of different prompts"):
        steps_of(data, "binary", completions_per_step=2, mismatched=True)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.randoms())
def test_mismatched_pairs_never_share_a_prompt(prompts: list[int], random: object) -> None:
    """No completion meets its own prompt; each serves at most once; all do unless one prompt holds more than half."""
    prompt_of = np.array(prompts)
    batch = np.arange(len(prompts))
    random.shuffle(batch)  # type: ignore[attr-defined]
    pairs = mismatch(batch, prompt_of)
    assert all(prompt != prompt_of[completion] for prompt, completion in pairs)
    assert len(set(pairs[:, 1])) == len(pairs)
    for prompt, times in Counter(pairs[:, 0].tolist()).items():
        assert times <= prompts.count(prompt)
    largest = max(Counter(prompts).values())
    expected = len(prompts) if 2 * largest <= len(prompts) else 2 * (len(prompts) - largest)
    assert len(pairs) == expected
