"""NCA: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.nca import NCA

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[NCA]) -> None:
    """With beta = 0.1 and s(a) = -log sigma(a) = log(1 + e^-a), log-ratios (chosen, rejected):

    1. (2, -3): s(0.2) + s(-0.2) / 2 + s(0.3) / 2 = 0.59813887 + 0.39906943 + 0.27717762 = 1.27438593.
       Gradient per token: chosen 0.1 * (-sigma(-0.2) + sigma(0.2) / 2) = 0.1 * (-0.45016600 + 0.27491700)
       = -0.01752490, rejected 0.1 * sigma(-0.3) / 2 = 0.02127787
    2. (-1, 1): s(-0.1) + s(0.1) / 2 + s(-0.1) / 2 = 1.43879332
    3. policy = reference: 2 log 2 = 1.38629436
    4. (10 log 2, 0): sigma(r) = 2/3 for the chosen one, whose gradient is -1/3 + (2/3) / 2 = 0.
       log(3/2) + log(3) / 2 + log(2) / 2 = 1.30134484
    """
    chosen = completions([[-1, -2], [-3], [-0.7], [-1]], [[-2, -3], [-2], [-0.7], [-1 - 10 * math.log(2)]])
    rejected = completions([[-4], [-0.5, -0.5], [-5], [-2]], [[-1], [-1, -1], [-5], [-2]])
    output = cls(beta=0.1)(chosen, rejected)
    assert_equals(output.losses, [1.2743859263, 1.4387933201, 1.3862943611, 1.3013448427])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1, 1])
    output.losses[[0, 3]].sum().backward()
    assert_equals(chosen.policy.grad, [[-0.0175249004, -0.0175249004], [0, 0], [0, 0], [0, 0]])
    assert_equals(rejected.policy.grad[:, 0], [0.0212778742, 0, 0, 0.025])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0, math.log(2)])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0, 1])


def test_values_derived_by_hand() -> None:
    check(NCA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("return -F.logsigmoid(chosen_rewards)", "return -F.logsigmoid(-chosen_rewards)", id="sign"),
        pytest.param("F.logsigmoid(-rejected_rewards)", "F.logsigmoid(rejected_rewards)", id="sign of the rejected"),
        pytest.param("F.logsigmoid(-chosen_rewards) + ", "", id="no bound on the chosen"),
        pytest.param("noise / 2", "noise", id="no half"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(NCA, old, new, check, monkeypatch)


@laws
@given(seed=seeds, beta=st.floats(0.1, 10))
def test_it_bounds_the_chosen_reward_and_lowers_the_rejected_one(seed: int, beta: float, make_batch: Any) -> None:
    nca = NCA(beta=beta)
    batch = make_batch(nca, n=9, seed=seed)
    chosen, rejected = batch.columns
    output = batch.output(nca)
    chosen_gradient, rejected_gradient = torch.autograd.grad(output.losses.sum(), [chosen.policy, rejected.policy])
    excess = output.statistics["rewards/chosen"][0] - math.log(2)
    clear = excess.abs() > 1e-9
    assert (chosen_gradient[:, 0].sign() == excess.sign())[clear & chosen.mask[:, 0]].all()
    assert (rejected_gradient[rejected.mask] > 0).all()


@laws
@given(seed=seeds)
def test_the_two_completions_do_not_interact(seed: int, make_batch: Any) -> None:
    nca = NCA()
    chosen, rejected = make_batch(nca, seed=seed).columns
    _, another = make_batch(nca, seed=seed + 1).columns
    (one,) = torch.autograd.grad(nca(chosen, rejected).losses.sum(), chosen.policy)
    (other,) = torch.autograd.grad(nca(chosen, another).losses.sum(), chosen.policy)
    torch.testing.assert_close(one, other)
