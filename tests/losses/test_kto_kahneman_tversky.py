"""KTO with the power function of prospect theory."""

from __future__ import annotations

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kto_bench.losses.kto_kahneman_tversky import KTOKahnemanTversky

laws = settings(max_examples=50, deadline=None)

sizes = st.floats(2e-5, 100)


def check(cls: type[KTOKahnemanTversky]) -> None:
    """With beta = 0.1, lambda_D = 1, lambda_U = 2, z0 = 1, alpha = 0.88, loss aversion 2.25, linear within 0.01:

    1. desirable, r = 6 (tokens -1, -2 against -5, -4), gain 0.5: -0.5^0.88 = -0.54336743.
       Gradient per token: -0.1 * 0.88 * 0.5^-0.12 = -0.1 * 0.95632668
    2. undesirable, r = 6, gain -0.5: 2 * 2.25 * 0.54336743 = 2.44515344. Gradient: 2 * 0.1 * 2.25 * 0.95632668
    3. desirable, r = 1.04, gain 0.004: -0.004 * 0.01^-0.12 = -0.004 * 1.73780083 = -0.00695120.
       Gradient: -0.1 * 1.73780083
    4. undesirable, r = 1.04, gain -0.004: 2 * 2.25 * 0.00695120 = 0.03128041. Gradient: 2 * 0.1 * 2.25 * 1.73780083

    The largest slope is 2.25 * 1.73780083 = 3.91005186. Effective weights: 0.95632668 / 3.91005186 = 0.24458158,
    2 * 2.25 * 0.24458158, 1 / 2.25 and 2 * 1.
    """
    loss = cls(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0)
    batch = completions([[-1, -2], [-2], [-0.96], [-0.96]], [[-5, -4], [-8], [-2], [-2]])
    output = loss(batch, torch.tensor([True, False, True, False]), torch.tensor(1.0, dtype=torch.float64))
    assert_equals(output.losses, [-0.5433674313, 2.4451534407, -0.0069512033, 0.0312804149])
    output.losses.sum().backward()
    expected = [[-0.0956326679, -0.0956326679], [0.4303470056, 0], [-0.1737800829, 0], [0.7820103729, 0]]
    assert_equals(batch.policy.grad, expected)
    assert_equals(output.statistics["effective_weight/desirable"][0][[0, 2]], [0.2445815841, 0.4444444444])
    assert_equals(output.statistics["effective_weight/undesirable"][0][[1, 3]], [1.1006171285, 2])


def test_values_derived_by_hand() -> None:
    check(KTOKahnemanTversky)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return -torch.where(gain > ", "return torch.where(gain > "),
        ("torch.where(gain > -_ROUNDING, curve", "torch.where(gain < -_ROUNDING, curve"),
        ("curve, self.loss_aversion * curve", "curve, curve"),
        ("inner = self._steepest * gain", "inner = gain"),
        (" ** self.alpha\n", "\n"),
        ("self.alpha * times", "times"),
        (" / max(1.0, self.loss_aversion)", ""),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(KTOKahnemanTversky, old, new, check, monkeypatch)


def value(loss: KTOKahnemanTversky, *gains: float) -> list[float]:
    return (-loss.shortfall(torch.tensor(gains, dtype=torch.float64))).tolist()


@laws
@given(size=sizes, aversion=st.floats(0.1, 10), alpha=st.floats(0.1, 1), within=st.floats(1e-4, 1))
def test_losses_are_gains_times_the_aversion(size: float, aversion: float, alpha: float, within: float) -> None:
    gain, lost = value(KTOKahnemanTversky(alpha=alpha, loss_aversion=aversion, linear_within=within), size, -size)
    assert lost == pytest.approx(-aversion * gain)


@laws
@given(size=sizes, alpha=st.floats(0.1, 1))
def test_beyond_the_linear_part_it_is_the_power(size: float, alpha: float) -> None:
    (gain,) = value(KTOKahnemanTversky(alpha=alpha), size + 0.01)
    assert gain == pytest.approx((size + 0.01) ** alpha)


@pytest.mark.parametrize("within", [0.01, 0.5])
def test_linear_part_is_continuous_and_joins_from_above(within: float) -> None:
    """At its end the value has no step; the slope falls there by the factor alpha, 1 at the right of 0 by 2.25 left."""
    loss = KTOKahnemanTversky(linear_within=within)
    step = 1e-9
    for side in (1, -1):
        inner, end, outer = value(loss, side * within * (1 - step), side * within, side * within * (1 + step))
        assert abs(end) == pytest.approx(within**0.88 * (1 if side == 1 else 2.25))
        assert inner == pytest.approx(end, abs=1e-7)
        assert (outer - end) / (end - inner) == pytest.approx(0.88, rel=1e-4)
    left, right = value(loss, -within / 2, within / 2)
    assert -left / right == pytest.approx(2.25)


def test_training_starts_with_a_gradient() -> None:
    """At a gain of 0, where policy = reference, every example has the slope of small gains, whatever the rounding."""
    gain = torch.tensor([0.0, 1e-6, -1e-6], dtype=torch.float64, requires_grad=True)
    loss = KTOKahnemanTversky()
    (gradient,) = torch.autograd.grad(loss.shortfall(gain).sum(), gain)
    assert gradient.tolist() == pytest.approx([-(0.01**-0.12)] * 3)
    assert loss.relative_slope(gain.detach()).tolist() == pytest.approx([1 / 2.25] * 3)


@pytest.mark.parametrize("changes", [{"alpha": 0}, {"alpha": 1.1}, {"loss_aversion": 0}, {"linear_within": 1e-5}])
def test_impossible_parameters_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        KTOKahnemanTversky.model_validate(changes)
