"""R-DPO: values derived by hand, and laws. TRL does not have it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.base import Completions
from kto_bench.losses.dpo import DPO
from kto_bench.losses.rdpo import RDPO

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[RDPO]) -> None:
    """With beta = 0.1, alpha = 0.05 and log-ratios (chosen, rejected):

    1. (2, -3) over 2 and 1 tokens: -log sigma(0.1 * 5 + 0.05 * 1) = log(1 + e^-0.55) = 0.45549248.
       Gradient per token: chosen -0.1 * sigma(-0.55) = -0.1 * 0.36586441, rejected the opposite.
    2. (-1, 1) over 1 and 2 tokens: -log sigma(-0.2 - 0.05) = log(1 + e^0.25) = 0.82593942
    3. policy = reference over 1 and 2 tokens: log(1 + e^0.05) = 0.71845965

    Rewards as in DPO, the length left out: chosen 0.2, -0.1, 0, rejected -0.3, 0.1, 0.
    """
    chosen = completions([[-1, -2], [-3], [-0.7]], [[-2, -3], [-2], [-0.7]])
    rejected = completions([[-4], [-0.5, -0.5], [-5, -6]], [[-1], [-1, -1], [-5, -6]])
    output = cls(beta=0.1, length_penalty=0.05)(chosen, rejected)
    assert_equals(output.losses, [0.4554924815, 0.8259394199, 0.7184596480])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-0.0365864409, -0.0365864409])
    assert_equals(rejected.policy.grad[0], [0.0365864409, 0])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0])
    assert_equals(output.statistics["rewards/margin"][0], [0.5, -0.2, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0])


def test_values_derived_by_hand() -> None:
    check(RDPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("+ explained", "- explained", id="length rewarded"),
        pytest.param("self.length_penalty * (", "self.beta * self.length_penalty * (", id="alpha times beta"),
        pytest.param("self.length_penalty * (", "(", id="no alpha"),
        pytest.param("(chosen_rewards - rejected_rewards +", "(rejected_rewards - chosen_rewards +", id="sign"),
        pytest.param("self.beta * chosen", "chosen", id="no beta"),
        pytest.param("rejected.log_ratio", "rejected.policy_log_prob", id="no reference"),
        pytest.param("chosen.log_ratio", "chosen.log_ratio / chosen.lengths", id="mean for sum"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(RDPO, old, new, check, monkeypatch)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_without_penalty_it_is_dpo(seed: int, beta: float, make_batch: Any) -> None:
    batch = make_batch(DPO(), seed=seed)
    losses = batch.output(RDPO(beta=beta, length_penalty=0)).losses
    torch.testing.assert_close(losses, batch.output(DPO(beta=beta)).losses)


@laws
@given(seed=seeds, penalty=st.floats(0.01, 1), longer=st.integers(1, 8))
def test_a_longer_chosen_completion_is_raised_less(seed: int, penalty: float, longer: int, make_batch: Any) -> None:
    """Of two chosen completions with the same log-ratio, and a longer rejected one is lowered more."""
    rdpo = RDPO(length_penalty=penalty)
    batch = make_batch(rdpo, seed=seed)
    chosen, rejected = batch.columns

    def lengthen(c: Completions) -> Completions:
        """With tokens that the policy likes exactly as much as the reference does."""
        assert c.reference is not None
        more = torch.full((len(c.mask), longer), -1.0, dtype=c.policy.dtype)
        mask = torch.cat([c.mask, torch.ones_like(more, dtype=torch.bool)], dim=1)
        return Completions(torch.cat([c.policy, more], 1), mask, torch.cat([c.reference, more], 1))

    def pull(chosen: Completions, rejected: Completions, column: int) -> torch.Tensor:
        losses = rdpo(chosen, rejected).losses
        (gradient,) = torch.autograd.grad(losses.sum(), batch.columns[column].policy)
        return gradient[batch.columns[column].mask].abs()

    assert (pull(lengthen(chosen), rejected, 0) < pull(chosen, rejected, 0)).all()
    assert (pull(chosen, lengthen(rejected), 1) > pull(chosen, rejected, 1)).all()
    torch.testing.assert_close(
        rdpo(lengthen(chosen), lengthen(rejected)).losses, rdpo(chosen, rejected).losses, rtol=0, atol=1e-12
    )
