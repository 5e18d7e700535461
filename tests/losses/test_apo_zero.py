"""APO-zero: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.apo_zero import APOZero

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[APOZero]) -> None:
    """With beta = 0.1 and log-ratios (chosen, rejected):

    1. (2, -3): 1 - sigma(0.2) + sigma(-0.3) = 0.45016600 + 0.42555748 = 0.87572349. With the slope
       sigma'(a) = sigma(a) sigma(-a), the gradient per token is -0.1 * sigma'(0.2) = -0.1 * 0.24751657 for the chosen
       one and 0.1 * sigma'(-0.3) = 0.1 * 0.24445831 for the rejected one.
    2. (-1, 1): 1 - sigma(-0.1) + sigma(0.1) = 2 * 0.52497919 = 1.04995837
    3. policy = reference: 1 - 1/2 + 1/2 = 1
    """
    chosen = completions([[-1, -2], [-3], [-0.7]], [[-2, -3], [-2], [-0.7]])
    rejected = completions([[-4], [-0.5, -0.5], [-5, -6]], [[-1], [-1, -1], [-5, -6]])
    output = cls(beta=0.1)(chosen, rejected)
    assert_equals(output.losses, [0.8757234859, 1.0499583750, 1])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-0.0247516573, -0.0247516573])
    assert_equals(rejected.policy.grad[0], [0.0244458312, 0])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0])


def test_values_derived_by_hand() -> None:
    check(APOZero)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("torch.sigmoid(-chosen_rewards)", "torch.sigmoid(chosen_rewards)", id="sign"),
        pytest.param("torch.sigmoid(rejected_rewards)", "torch.sigmoid(-rejected_rewards)", id="sign of the rejected"),
        pytest.param("torch.sigmoid(-chosen_rewards)", "-torch.sigmoid(chosen_rewards)", id="no constant"),
        pytest.param(
            "torch.sigmoid(rejected_rewards)", "torch.sigmoid(rejected_rewards - chosen_rewards)", id="margin"
        ),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(APOZero, old, new, check, monkeypatch)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_the_two_completions_do_not_interact(seed: int, beta: float, make_batch: Any) -> None:
    loss = APOZero(beta=beta)
    chosen, rejected = make_batch(loss, seed=seed).columns
    _, another = make_batch(loss, seed=seed + 1).columns
    (one,) = torch.autograd.grad(loss(chosen, rejected).losses.sum(), chosen.policy)
    (other,) = torch.autograd.grad(loss(chosen, another).losses.sum(), chosen.policy)
    torch.testing.assert_close(one, other)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_exchanging_the_roles_mirrors_it(seed: int, beta: float, make_batch: Any) -> None:
    """Between 0 and 2, and as far above 1 with the roles exchanged as it is below."""
    loss = APOZero(beta=beta)
    chosen, rejected = make_batch(loss, seed=seed).columns
    losses = loss(chosen, rejected).losses
    assert ((losses > 0) & (losses < 2)).all()
    torch.testing.assert_close(losses + loss(rejected, chosen).losses, torch.full_like(losses, 2))
