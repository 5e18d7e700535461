"""RRHF: values derived by hand, and laws. TRL does not have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.rrhf import RRHF


def check(cls: type[RRHF]) -> None:
    """With nll_weight = 0.5, mean log-probabilities (chosen, rejected):

    1. (-1, -3) has the mean -2, (-1) the mean -1: max(0, -1 + 2) + 0.5 * 4 = 3.
       Gradient per token: chosen -1 / 2 - 0.5 = -1, rejected 1.
    2. (-0.5, -0.5) and (-2, -1, -3): means -0.5 and -2 are ranked already, 0.5 * 1 = 0.5 is left. Gradient: -0.5 and 0.
    3. (-1) and (-1, -1): a tie, 0.5 * 1 = 0.5. Gradient: -0.5 and 0.
    4. (-6) and (-1, -4): max(0, -2.5 + 6) + 0.5 * 6 = 6.5. Gradient: chosen -1 - 0.5, rejected 1 / 2.

    With the default weight 1: 1 + 4, 1, 1 and 3.5 + 6. Rewards: the means.
    """
    chosen = completions([[-1, -3], [-0.5, -0.5], [-1], [-6]])
    rejected = completions([[-1], [-2, -1, -3], [-1, -1], [-1, -4]])
    output = cls(nll_weight=0.5)(chosen, rejected)
    assert_equals(output.losses, [3, 0.5, 0.5, 6.5])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1, 1])
    output.losses.sum().backward()
    assert_equals(chosen.policy.grad, [[-1, -1], [-0.5, -0.5], [-0.5, 0], [-1.5, 0]])
    assert_equals(rejected.policy.grad, [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0.5, 0.5, 0]])
    assert_equals(output.statistics["rewards/chosen"][0], [-2, -0.5, -1, -6])
    assert_equals(output.statistics["rewards/rejected"][0], [-1, -2, -1, -2.5])
    assert_equals(output.statistics["rewards/accuracy"][0], [0, 1, 0, 0])  # a tie is no success
    assert_equals(output.statistics["log_probs/chosen"][0], [-4, -1, -1, -6])
    assert_equals(cls()(chosen, rejected).losses, [5, 1, 1, 9.5])


def test_values_derived_by_hand() -> None:
    check(RRHF)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            "F.relu(rejected_rewards - chosen_rewards)", "F.relu(chosen_rewards - rejected_rewards)", id="sign"
        ),
        pytest.param("F.relu(", "(", id="no hinge"),
        pytest.param("- self.nll_weight", "+ self.nll_weight", id="sign of the likelihood"),
        pytest.param("self.nll_weight * ", "", id="no weight"),
        pytest.param("* chosen.policy_log_prob", "* chosen_rewards", id="mean for sum in the likelihood"),
        pytest.param("chosen.mean_log_prob", "chosen.policy_log_prob", id="sum for mean in the ranking"),
        pytest.param("* chosen.policy_log_prob", "* rejected.policy_log_prob", id="likelihood of the wrong one"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(RRHF, old, new, check, monkeypatch)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), weight=st.floats(0, 2))
def test_a_ranked_pair_is_only_imitated(seed: int, weight: float, make_batch: Any) -> None:
    rrhf = RRHF(nll_weight=weight)
    batch = make_batch(rrhf, n=9, seed=seed)
    chosen, rejected = batch.columns
    output = batch.output(rrhf)
    ranked = output.statistics["rewards/margin"][0] >= 0
    torch.testing.assert_close(output.losses[ranked], -weight * chosen.policy_log_prob[ranked])
    chosen_gradient, rejected_gradient = torch.autograd.grad(output.losses.sum(), [chosen.policy, rejected.policy])
    assert (rejected_gradient[ranked] == 0).all()
    torch.testing.assert_close(rejected_gradient[~ranked].sum(-1), torch.ones_like(output.losses[~ranked]))
    torch.testing.assert_close(chosen_gradient[ranked], -weight * chosen.mask[ranked].to(chosen_gradient.dtype))
