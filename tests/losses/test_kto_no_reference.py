"""KTO with a uniform distribution in the place of the reference."""

from __future__ import annotations

import math

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.base import Completions
from kto_bench.losses.kto import KTO
from kto_bench.losses.kto_no_reference import KTONoReference

laws = settings(max_examples=50, deadline=None)


def check(cls: type[KTONoReference]) -> None:
    """Entropy: mismatched pairs with log-probabilities -2 - 3 = -5 and -7, so H = 6 and the reference point is -6.

    With beta = 0.1, the default lambda_D = 1.75 and lambda_U = 1:

    1. desirable, log pi = -1 - 2 = -3: 1.75 * (1 - sigma(0.1 * (-3 + 6))) = 1.75 * 0.42555748 = 0.74472560.
       Gradient per token: -1.75 * 0.1 * sigma(0.3) * sigma(-0.3) = -0.175 * 0.24445831 = -0.04278020
    2. undesirable, log pi = -8: 1 - sigma(0.1 * (-6 + 8)) = sigma(-0.2) = 0.45016600. Gradient: 0.1 * 0.24751657
    3. desirable, log pi = -11: 1.75 * sigma(0.5) = 1.08930383
    4. undesirable, log pi = -6: sigma(0) = 0.5

    Rewards 0.1 * log pi: desirable -0.3 and -1.1, undesirable -0.8 and -0.6.
    """
    loss = cls()
    assert not loss.needs_reference
    mismatched = completions([[-2, -3], [-7]])
    point = loss.reference_point(mismatched, {})
    assert_equals(point.value, -6)
    assert_equals(point.statistics["entropy"], 6)
    assert not point.value.requires_grad
    batch = completions([[-1, -2], [-8], [-5, -6], [-6]])
    output = loss(batch, torch.tensor([True, False, True, False]), point.value)
    assert_equals(output.losses, [0.7447255956, 0.4501660027, 1.0893038296, 0.5])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad[:2], [[-0.0427802045, -0.0427802045], [0.0247516573, 0]])
    assert_equals(output.statistics["rewards/desirable"][0], [-0.3, -0.8, -1.1, -0.6])
    assert logged(output, "rewards/undesirable") == pytest.approx(-0.7)


def test_values_derived_by_hand() -> None:
    check(KTONoReference)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value = log_probs.mean()", "value = -log_probs.mean()"),
        ("value = log_probs.mean()", "value = log_probs.sum()"),
        ("value = log_probs.mean()", "value = log_probs.mean().clamp(min=0)"),
        ("mismatched.policy_log_prob.detach()", "mismatched.policy_log_prob"),
        ("return completions.policy_log_prob", "return completions.policy_log_prob / completions.lengths"),
        ("return completions.policy_log_prob", "return -completions.policy_log_prob"),
        ("        1.75, ge=0", "        1.0, ge=0"),
        ("needs_reference: ClassVar[bool] = False", "needs_reference: ClassVar[bool] = True"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(KTONoReference, old, new, check, monkeypatch)


@laws
@given(log_number=st.floats(5, 500), rows=st.lists(st.floats(-5, -0.1), min_size=2, max_size=5))
def test_it_is_kto_with_a_uniform_reference(log_number: float, rows: list[float]) -> None:
    """Whatever the number of completions, as long as KTO's own estimate of the divergence is not clamped at 0."""
    batch = completions([[row] for row in rows])
    uniform = Completions(batch.policy, batch.mask, torch.full_like(batch.policy, -log_number))
    desirable = torch.arange(len(rows)) % 2 == 0
    ours, kto = KTONoReference(), KTO(desirable_weight=1.75)
    point = ours.reference_point(batch, {}).value
    kl = kto.reference_point(uniform, {})
    assert float(kl.value) == pytest.approx(log_number + float(point))
    torch.testing.assert_close(ours(batch, desirable, point).losses, kto(uniform, desirable, kl.value).losses)


def test_a_uniform_policy_is_at_its_reference_point() -> None:
    """Over 8 completions of equal probability H is exactly log 8, so nothing is a gain and the loss is lambda / 2."""
    uniform = completions([[-math.log(8)]] * 3)
    loss = KTONoReference()
    output = loss(uniform, torch.tensor([True, False, True]), loss.reference_point(uniform, {}).value)
    assert_equals(output.losses, [0.875, 0.5, 0.875])
