"""SLiC: values derived by hand, and laws. TRL does not have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.slic import SLiC


def check(cls: type[SLiC]) -> None:
    """With delta = 1 and lambda_reg = 0.1, log-probabilities (chosen, rejected):

    1. (-1, -2) sums to -3, (-3.5): max(0, 1 - 0.5) + 0.1 * 3 = 0.8. Gradient per token: chosen -1 - 0.1, rejected 1.
    2. -0.5, (-1, -4) sums to -5: the margin 4.5 is enough, 0.1 * 0.5 = 0.05 is left. Gradient: chosen -0.1, rejected 0.
    3. -3, (-1, -1) sums to -2: max(0, 1 + 1) + 0.1 * 3 = 2.3

    With delta = 2 and lambda_reg = 0.5: 1.5 + 1.5 = 3, 0 + 0.25 and 3 + 1.5 = 4.5.
    Rewards: the log-probabilities, hence margins 0.5, 4.5 and -1.
    """
    chosen = completions([[-1, -2], [-0.5], [-3]])
    rejected = completions([[-3.5], [-1, -4], [-1, -1]])
    output = cls(delta=1.0, regularisation=0.1)(chosen, rejected)
    assert_equals(output.losses, [0.8, 0.05, 2.3])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses.sum().backward()
    assert_equals(chosen.policy.grad, [[-1.1, -1.1], [-0.1, 0], [-1.1, 0]])
    assert_equals(rejected.policy.grad, [[1, 0], [0, 0], [1, 1]])
    assert_equals(output.statistics["rewards/chosen"][0], [-3, -0.5, -3])
    assert_equals(output.statistics["rewards/rejected"][0], [-3.5, -5, -2])
    assert_equals(output.statistics["rewards/margin"][0], [0.5, 4.5, -1])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 1, 0])
    assert_equals(output.statistics["log_probs/chosen"][0], [-3, -0.5, -3])
    assert_equals(cls(delta=2.0, regularisation=0.5)(chosen, rejected).losses, [3, 0.25, 4.5])


def test_values_derived_by_hand() -> None:
    check(SLiC)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("(chosen_rewards - rejected_rewards)", "(rejected_rewards - chosen_rewards)", id="sign"),
        pytest.param("- self.regularisation", "+ self.regularisation", id="sign of the likelihood"),
        pytest.param("self.delta - (", "-(", id="no margin"),
        pytest.param("F.relu(", "(", id="no hinge"),
        pytest.param("self.regularisation * chosen_rewards", "chosen_rewards", id="no lambda"),
        pytest.param("self.regularisation * chosen_rewards", "self.regularisation * rejected_rewards", id="wrong y"),
        pytest.param(" chosen.policy_log_prob", " chosen.policy_log_prob / chosen.lengths", id="mean for sum"),
        pytest.param(
            "(chosen_rewards - rejected_rewards)", "(chosen_rewards.detach() - rejected_rewards)", id="detach"
        ),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(SLiC, old, new, check, monkeypatch)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), delta=st.floats(0, 5))
def test_a_pair_with_enough_margin_is_only_imitated(seed: int, delta: float, make_batch: Any) -> None:
    slic = SLiC(delta=delta)
    batch = make_batch(slic, n=9, seed=seed)
    chosen, rejected = batch.columns
    output = batch.output(slic)
    enough = output.statistics["rewards/margin"][0] > delta
    chosen_gradient, rejected_gradient = torch.autograd.grad(output.losses.sum(), [chosen.policy, rejected.policy])
    assert (rejected_gradient[enough] == 0).all()
    assert (rejected_gradient[~enough] == rejected.mask[~enough]).all()
    expected = torch.where(enough, -slic.regularisation, -1 - slic.regularisation)[:, None] * chosen.mask
    torch.testing.assert_close(chosen_gradient, expected.to(chosen_gradient.dtype))
