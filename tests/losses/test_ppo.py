"""Offline PPO-Clip: values, the textbook's two-term minimum, and advantages against the plain recursion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from hypothesis import given, settings
from hypothesis import strategies as st
from mutated_base import assert_noticed_below
from pydantic import ValidationError
from torch import Tensor

from kto_bench.losses import advantages
from kto_bench.losses.advantages import advantages_and_returns, discounted_sums
from kto_bench.losses.base import Completions
from kto_bench.losses.ppo import OfflinePPO

laws = settings(max_examples=50, deadline=None)

LOG_3, LOG_4 = math.log(3), math.log(4)


def check(cls: type[OfflinePPO]) -> None:
    """Clip range 0.5 to 2, discount 0.5, lambda 0.5 (their product 0.25), KL weight 0.1, value weight 0.2:

    1. desirable, V = (0.2, 0.4, -0.4), ratios (4, 1/4, 1):
       R + 0.5 V' - V = (0.2 - 0.2, -0.2 - 0.4, 1 + 0.4) = (0, -0.6, 1.4); A = (-0.0625, -0.25, 1.4), from the right
       1.4, -0.6 + 0.25 * 1.4, 0 - 0.25 * 0.25; G = (0.25, 0.5, 1).
       Policy: 0.0625 * 4 (A < 0: not bounded above) + 0.25 * 0.5 (clipped) - 1.4 = 0.25 + 0.125 - 1.4 = -1.025.
       KL: -0.1 * (log 4 - log 4 + 0) = 0. Value: 0.1 * (0.05^2 + 0.1^2 + 1.4^2) = 0.19725. Sum: -0.82775.
       Gradient of the policy: 0.25 - 0.1, 0 - 0.1, -1.4 - 0.1; of the values 0.2 * (V - G) = (-0.01, -0.02, -0.28).
    2. undesirable, V = 0.5, ratio 3: A = -1.5, G = -1. 1.5 * 3 - 0.1 * log 3 + 0.1 * 1.5^2 = 4.61513877.
       Gradients 4.5 - 0.1 and 0.2 * 1.5.
    3. desirable, V = (0, 0), ratios (4, 1/4): A = (0.25, 1), G = (0.5, 1). Policy: -0.25 * 2 (clipped) - 1 * 0.25
       (A > 0: not bounded below); KL 0; value 0.1 * (0.25 + 1). Sum: -0.625. Gradients -0.1, -0.25 - 0.1.

    Clipped: 1 of 3, 0 of 1, 1 of 2 tokens. Squared errors: 1.9725 / 3 = 0.6575, 2.25, 0.625. Weights: 3, 1, 2 tokens.
    Log-ratios: 0, log 3, 0.
    """
    loss = cls(clip_low=0.5, clip_high=2.0, discount=0.5, gae_lambda=0.5, kl_weight=0.1, value_weight=0.2)
    batch = completions(
        [[-3 + LOG_4, -3 - LOG_4, -3], [-1 + LOG_3], [-2 + LOG_4, -2 - LOG_4]], [[-3, -3, -3], [-1], [-2, -2]]
    )
    values = torch.tensor([[0.2, 0.4, -0.4], [0.5, 99, 99], [0, 0, 99]], dtype=torch.float64, requires_grad=True)
    batch = Completions(batch.policy, batch.mask, batch.reference, values)
    output = loss(batch, torch.tensor([True, False, True]))
    assert_equals(output.losses, [-0.82775, 4.6151387711, -0.625])
    assert_equals(loss.weights(batch.lengths), [3, 1, 2])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad, [[0.15, -0.1, -1.5], [4.4, 0, 0], [-0.1, -0.35, 0]])
    assert_equals(values.grad, [[-0.01, -0.02, -0.28], [0.3, 0, 0], [-0.1, -0.2, 0]])
    assert_equals(output.statistics["clipped"][0], [1 / 3, 0, 0.5])
    assert_equals(output.statistics["value_error"][0], [0.6575, 2.25, 0.625])
    assert_equals(output.statistics["rewards/desirable"][0], [0, LOG_3, 0])
    assert logged(output, "rewards/undesirable") == pytest.approx(LOG_3)
    assert logged(output, "log_probs/desirable") == pytest.approx(-6.5)


def test_values_derived_by_hand() -> None:
    check(OfflinePPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("policy_losses = -advantages", "policy_losses = advantages"),
        ("desirable, 1.0, -1.0", "desirable, -1.0, 1.0"),
        ("log_ratio.clamp(max=high)", "log_ratio.clamp(low, high)"),
        ("log_ratio.clamp(min=low)", "log_ratio.clamp(low, high)"),
        ("log_ratio.clamp(max=high), log_ratio.clamp(min=low)", "log_ratio, log_ratio"),
        ("- self.kl_weight * log_ratio", "+ self.kl_weight * log_ratio"),
        ("- self.kl_weight * log_ratio", ""),
        ("self.value_weight / 2", "self.value_weight"),
        ("(values - returns).square()", "(values - advantages).square()"),
        ("0.0).sum(-1),\n            statistics", "0.0).sum(-1) / tokens,\n            statistics"),
        ("lengths.to(torch.float32)", "torch.ones_like(lengths)"),
        ("log_ratio > high, log_ratio < low", "log_ratio < low, log_ratio > high"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(OfflinePPO, old, new, check, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("values = values.detach()", "values = values"),
        ("discount * gae_lambda)", "discount)"),
        ("received + discount * F.pad", "received + F.pad"),
        ("~F.pad(mask[..., 1:], (0, 1))", "~F.pad(mask[..., :-1], (1, 0))"),
        ("discounted_sums(received, discount)", "discounted_sums(received, 1)"),
        ("width *= 2", "width *= 3"),
    ],
)
def test_values_notice_wrong_advantages(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed_below(advantages, OfflinePPO, old, new, check, monkeypatch)


def recursion(values: Tensor, rewards: Tensor, mask: Tensor, discount: float, gae_lambda: float) -> list[Tensor]:
    """Advantages and returns token by token, from the last to the first."""
    found = [torch.zeros_like(values), torch.zeros_like(values)]
    for row in range(len(values)):
        advantage = value_after = gain = 0.0
        reward = float(rewards[row])
        for position in reversed(mask[row].nonzero().flatten().tolist()):
            value = float(values[row, position])
            advantage = reward + discount * value_after - value + discount * gae_lambda * advantage
            gain = reward + discount * gain
            found[0][row, position], found[1][row, position] = advantage, gain
            reward, value_after = 0.0, value
    return found


@laws
@given(
    seed=st.integers(0, 2**32 - 1),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    left=st.integers(0, 3),
)
def test_advantages_are_the_recursion(seed: int, discount: float, gae_lambda: float, left: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n, t = 4, 9
    values = torch.randn(n, t, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, t - left + 1, (n, 1), generator=generator)
    mask = (torch.arange(t) >= left) & (torch.arange(t) < left + lengths)
    rewards = torch.randn(n, generator=generator, dtype=torch.float64)
    found = advantages_and_returns(values.masked_fill(~mask, math.nan), rewards, mask, discount, gae_lambda)
    for actual, expected in zip(found, recursion(values, rewards, mask, discount, gae_lambda), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("discount", [0.0, 0.3, 0.9405, 1.0])
def test_sums_over_thousands_of_tokens_are_exact(discount: float, dtype: torch.dtype) -> None:
    values = torch.randn(2, 8192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, later = torch.zeros_like(values), torch.zeros(2, dtype=torch.float64)
    for position in range(8191, -1, -1):
        later = values[:, position] + discount * later
        expected[:, position] = later
    found = discounted_sums(values.to(dtype), discount)
    assert found.dtype == dtype
    tolerance = 1e-3 if discount == 1 and dtype == torch.float32 else 1e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


@laws
@given(seed=st.integers(0, 2**32 - 1))
def test_policy_loss_is_the_smaller_of_two_terms(seed: int, make_batch: Any) -> None:
    """The textbook's form, which the loss does not compute since its unclipped term may overflow."""
    loss = OfflinePPO(kl_weight=0, value_weight=0, clip_low=0.7, clip_high=1.5)
    batch = make_batch(loss, seed=seed)
    given, desirable = batch.columns
    rewards = torch.where(desirable, 1.0, -1.0).double()
    advantage, _ = advantages_and_returns(given.values, rewards, given.mask, 0.99, 0.95)
    ratio = (given.policy - given.reference).exp()
    smaller = torch.minimum(ratio * advantage, ratio.clamp(0.7, 1.5) * advantage)
    expected = -torch.where(given.mask, smaller, 0.0).sum(-1)
    ours = batch.output(loss).losses
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), given.policy), torch.autograd.grad(expected.sum(), given.policy)
    )


@laws
@given(seed=st.integers(0, 2**32 - 1))
def test_where_policy_equals_reference_the_loss_is_the_same_for_all_policies(seed: int, make_batch: Any) -> None:
    loss = OfflinePPO()
    batch = make_batch(loss, seed=seed)
    given, desirable = batch.columns
    one = Completions(given.policy, given.mask, given.policy, given.values)
    other = Completions(3 * given.policy, given.mask, 3 * given.policy, given.values)
    torch.testing.assert_close(loss(one, desirable).losses, loss(other, desirable).losses)


def test_a_token_that_overflows_has_a_finite_gradient() -> None:
    """e^200 is infinite in single precision; a token with a positive advantage is clipped long before."""
    policy = torch.tensor([[-1.0]], requires_grad=True)
    mask, zeros = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1)
    output = OfflinePPO()(Completions(policy, mask, torch.tensor([[-201.0]]), zeros), torch.tensor([True]))
    output.losses.sum().backward()
    assert output.losses.item() == pytest.approx(-4 - 0.1 * 200 + 0.005)
    assert policy.grad is not None
    assert policy.grad.item() == pytest.approx(-0.1)


def test_values_are_asked_for(make_batch: Any) -> None:
    loss = OfflinePPO()
    given, desirable = make_batch(loss).columns
    with pytest.raises(ValueError, match="value head"):
        loss(Completions(given.policy, given.mask, given.reference), desirable)


@pytest.mark.parametrize("changes", [{"clip_low": 0}, {"clip_low": 1.1}, {"clip_high": 0.9}, {"discount": 1.01}])
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        OfflinePPO.model_validate(changes)
