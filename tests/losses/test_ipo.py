"""IPO: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st
from trl_paired import assert_same_as_dpo_trainer, make_pairs
from trl_stand_in import LONG, each_dtype

from kto_bench.losses.base import Completions
from kto_bench.losses.ipo import IPO

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[IPO]) -> None:
    """With beta = 0.25, so that the target margin is 2. Log-ratios per token (chosen, rejected):

    1. (1, 3) has the mean 2, (-3): h = 5, (5 - 2)^2 = 9. Gradient per token: chosen 2 * 3 / 2 = 3, rejected -6: the
       margin is too large.
    2. (-0.5), (1, 0) has the mean 0.5: h = -1, (-3)^2 = 9. Gradient: chosen -6, rejected 6 / 2 = 3.
    3. policy = reference: 2^2 = 4. Gradient: chosen -4, rejected 4.

    Rewards 0.25 * mean: chosen 0.5, -0.125, 0, rejected -0.75, 0.125, 0.

    As sums: 1. h = 4 + 3 = 7, 5^2 = 25, gradient 10 and -10. 2. h = -0.5 - 1 = -1.5, 3.5^2 = 12.25, gradient -7 and 7.
    3. 4. Rewards 0.25 * sum: chosen 1, -0.125, 0, rejected -0.75, 0.25, 0.
    """
    for normalised in (True, False):
        chosen = completions([[-1, -2], [-1.5], [-0.7]], [[-2, -5], [-1], [-0.7]])
        rejected = completions([[-4], [-1, -1], [-5]], [[-1], [-2, -1], [-5]])
        output = cls(beta=0.25, length_normalised=normalised)(chosen, rejected)
        output.losses.sum().backward()
        if normalised:
            assert_equals(output.losses, [9, 9, 4])
            assert_equals(chosen.policy.grad, [[3, 3], [-6, 0], [-4, 0]])
            assert_equals(rejected.policy.grad, [[-6, 0], [3, 3], [4, 0]])
            assert_equals(output.statistics["rewards/chosen"][0], [0.5, -0.125, 0])
            assert_equals(output.statistics["rewards/rejected"][0], [-0.75, 0.125, 0])
        else:
            assert_equals(output.losses, [25, 12.25, 4])
            assert_equals(chosen.policy.grad, [[10, 10], [-7, 0], [-4, 0]])
            assert_equals(rejected.policy.grad, [[-10, 0], [7, 7], [4, 0]])
            assert_equals(output.statistics["rewards/chosen"][0], [1, -0.125, 0])
            assert_equals(output.statistics["rewards/rejected"][0], [-0.75, 0.25, 0])
        assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0])
        assert_equals(output.statistics["log_probs/chosen"][0], [-3, -1.5, -0.7])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])


def test_values_derived_by_hand() -> None:
    check(IPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("(chosen_log_ratio - rejected_log_ratio -", "(rejected_log_ratio - chosen_log_ratio -", id="sign"),
        pytest.param("- 1 / (2 * self.beta)", "+ 1 / (2 * self.beta)", id="sign of the target"),
        pytest.param("1 / (2 * self.beta)", "1 / self.beta", id="twice the target"),
        pytest.param("1 / (2 * self.beta)", "1 / 2", id="no beta"),
        pytest.param(".square()", ".abs()", id="not squared"),
        pytest.param("if not self.length_normalised", "if self.length_normalised", id="sum for mean"),
        pytest.param("self.beta * rejected_log_ratio", "rejected_log_ratio", id="reward without beta"),
        pytest.param(
            "completions.log_ratio / completions", "completions.policy_log_prob / completions", id="no reference"
        ),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(IPO, old, new, check, monkeypatch)


@each_dtype
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty"])
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_trl(beta: float, t: int, empty: bool, dtype: torch.dtype) -> None:
    """TRL logs rewards of the sum, whatever it trains on."""
    chosen, rejected = make_pairs(t, dtype, empty=empty)
    assert_same_as_dpo_trainer(IPO(beta=beta), chosen, rejected, "ipo", rewards=False, beta=beta)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10), length_normalised=st.booleans())
def test_it_is_finite_where_policy_equals_reference(
    seed: int, beta: float, length_normalised: bool, make_batch: Any
) -> None:
    ipo = IPO(beta=beta, length_normalised=length_normalised)
    batch = make_batch(ipo, seed=seed).change(lambda c: Completions(c.policy, c.mask, c.policy.detach()))
    expected = torch.full((6,), 1 / (4 * beta**2), dtype=torch.float64)
    torch.testing.assert_close(batch.output(ipo).losses, expected)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_both_readings_agree_on_completions_of_one_token(seed: int, beta: float, make_batch: Any) -> None:
    ipo = IPO(beta=beta)
    batch = make_batch(ipo, t=1, seed=seed)
    summed = IPO(beta=beta, length_normalised=False)
    torch.testing.assert_close(batch.output(summed).losses, batch.output(ipo).losses)


@laws
@given(seed=seeds, beta=st.floats(0.05, 10), length_normalised=st.booleans())
def test_it_depends_on_the_margin_of_rewards_alone(
    seed: int, beta: float, length_normalised: bool, make_batch: Any
) -> None:
    """beta^2 times the loss is the square of the margin's distance from 1/2."""
    ipo = IPO(beta=beta, length_normalised=length_normalised)
    output = make_batch(ipo, seed=seed).output(ipo)
    margins = output.statistics["rewards/margin"][0]
    torch.testing.assert_close(beta**2 * output.losses, (margins - 0.5) ** 2)
