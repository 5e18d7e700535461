"""APO-down: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.apo_down import APODown
from kto_bench.losses.base import Completions

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[APODown]) -> None:
    """With beta = 0.1 and log-ratios (chosen, rejected):

    1. (2, -3): sigma(0.2) + 1 - sigma(0.5) = 0.54983400 + 0.37754067 = 0.92737467. With the slope
       sigma'(a) = sigma(a) sigma(-a), the gradient per token is 0.1 * (sigma'(0.2) - sigma'(0.5))
       = 0.1 * (0.24751657 - 0.23500371) = 0.00125129 for the chosen one, which is lowered, and 0.1 * 0.23500371 for
       the rejected one.
    2. (-1, 1): sigma(-0.1) + 1 - sigma(-0.2) = 0.47502081 + 0.54983400 = 1.02485481
    3. policy = reference: 1/2 + 1 - 1/2 = 1. Gradient: 0 for the chosen one, 0.1 / 4 for the rejected one.
    """
    chosen = completions([[-1, -2], [-3], [-0.7]], [[-2, -3], [-2], [-0.7]])
    rejected = completions([[-4], [-0.5, -0.5], [-5, -6]], [[-1], [-1, -1], [-5, -6]])
    output = cls(beta=0.1)(chosen, rejected)
    assert_equals(output.losses, [0.9273746661, 1.0248548098, 1])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses[[0, 2]].sum().backward()
    assert_equals(chosen.policy.grad, [[0.0012512861, 0.0012512861], [0, 0], [0, 0]])
    assert_equals(rejected.policy.grad, [[0.0235003712, 0], [0, 0], [0.025, 0.025]])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0])


def test_values_derived_by_hand() -> None:
    check(APODown)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("torch.sigmoid(chosen_rewards)", "torch.sigmoid(-chosen_rewards)", id="sign of the anchor"),
        pytest.param("(rejected_rewards - chosen_rewards)", "(chosen_rewards - rejected_rewards)", id="sign"),
        pytest.param("(rejected_rewards - chosen_rewards)", "(rejected_rewards)", id="APO-zero's term"),
        pytest.param("return torch.sigmoid", "return -1 + torch.sigmoid", id="no constant"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(APODown, old, new, check, monkeypatch)


@laws
@given(seed=seeds, beta=st.floats(0.01, 2))
def test_what_is_lowered(seed: int, beta: float, make_batch: Any) -> None:
    """Always the rejected completion; the chosen one where its reward is closer to 0 than the margin is."""
    loss = APODown(beta=beta)
    batch = make_batch(loss, n=9, seed=seed)
    chosen, rejected = batch.columns
    output = batch.output(loss)
    assert ((output.losses > 0) & (output.losses < 2)).all()
    chosen_gradient, rejected_gradient = torch.autograd.grad(output.losses.sum(), [chosen.policy, rejected.policy])
    assert (rejected_gradient[rejected.mask] > 0).all()
    reward, margin = (output.statistics[f"rewards/{name}"][0].abs() for name in ("chosen", "margin"))
    clear = (margin - reward).abs() > 1e-6
    assert (chosen_gradient[:, 0].sign() == (margin - reward).sign())[clear & chosen.mask[:, 0]].all()


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_it_leaves_the_chosen_completion_where_policy_equals_reference(seed: int, beta: float, make_batch: Any) -> None:
    loss = APODown(beta=beta)
    batch = make_batch(loss, seed=seed).change(lambda c: Completions(c.policy, c.mask, c.policy.detach()))
    chosen, rejected = batch.columns
    losses = batch.output(loss).losses
    chosen_gradient, rejected_gradient = torch.autograd.grad(losses.sum(), [chosen.policy, rejected.policy])
    assert (losses == 1).all()
    assert (chosen_gradient == 0).all()
    torch.testing.assert_close(rejected_gradient, beta / 4 * rejected.mask.to(torch.float64))
