"""Curves and their numbers against closed forms.

s is the logistic function, x the implied reward relative to the reference point, d = s(x) s(-x) its slope.
"""

from __future__ import annotations

import math

import halo_losses
import numpy as np
import pytest
import torch
from family import loss_of

from analysis.halo.probe import NATS, TOKENS, Context, Probe
from analysis.halo.shape import Shape, bend, describe
from analysis.halo.value import ValueFunction, curve, kahneman_tversky, value_functions
from kto_bench.losses import Loss
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.sft import SFT
from kto_bench.losses.simpo import SimPO

POINTS = np.array([-3.0, -1.0, -0.25, 0.5, 2.0])


def s(x):
    return 1 / (1 + np.exp(-x))


def functions(loss: Loss) -> dict[str, ValueFunction]:
    return {function.role: function for function in value_functions(Probe.of(loss))}


def shapes(loss: Loss) -> dict[str, Shape]:
    return {role: describe(function) for role, function in functions(loss).items()}


def check(function: ValueFunction, value, slope, curvature):
    for found, expected in zip(function.at(POINTS), (value, slope, curvature), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo(beta):
    """v = log s(x) + log 2 for the chosen completion: slope s(-x), curvature -d, aversion s(x) / s(-x) = e^x. For the
    rejected one everything is mirrored. The slope falls below 5% of 1 where s(-x) < 0.05, above log 19 = 2.944."""
    found, numbers = functions(DPO(beta=beta)), shapes(DPO(beta=beta))
    d = s(POINTS) * s(-POINTS)
    check(found["chosen"], np.log(2 * s(POINTS)), s(-POINTS), -d)
    check(found["rejected"], np.log(2 * s(-POINTS)), -s(POINTS), -d)
    assert found["chosen"].scale == beta
    for shape, sign in ((numbers["chosen"], 1), (numbers["rejected"], -1)):
        assert shape.slope_gain == pytest.approx(sign * 0.5, abs=1e-6)
        assert shape.slope_loss == pytest.approx(sign * 0.5, abs=1e-6)
        assert shape.aversion == pytest.approx({0: 1, 1: math.e, 2: math.e**2}, rel=1e-5)
        assert (shape.in_losses, shape.in_gains) == ("concave", "concave")
        assert not shape.still_steeper
    assert numbers["chosen"].vanishing == (pytest.approx((math.log(19), 10), abs=0.011),)
    assert numbers["rejected"].vanishing == (pytest.approx((-10, -math.log(19)), abs=0.011),)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
def test_kto(weights):
    """v = lambda_D (s(x) - 1/2), slope lambda_D d, curvature lambda_D d (s(-x) - s(x)); for undesirable completions
    lambda_U (s(-x) - 1/2). As steep for losses as for gains; 4 d < 0.05 where d < 0.0125, so s(-|x|) < 0.012660 and
    |x| > 4.3565."""
    kto = KTO(desirable_weight=weights[0], undesirable_weight=weights[1])
    found, numbers = functions(kto), shapes(kto)
    d, bent = s(POINTS) * s(-POINTS), s(POINTS) * s(-POINTS) * (s(-POINTS) - s(POINTS))
    check(found["desirable"], weights[0] * (s(POINTS) - 0.5), weights[0] * d, weights[0] * bent)
    check(found["undesirable"], weights[1] * (s(-POINTS) - 0.5), -weights[1] * d, -weights[1] * bent)
    for role, shape in numbers.items():
        assert shape.aversion == pytest.approx({0: 1, 1: 1, 2: 1}, rel=1e-9)
        assert (shape.in_losses, shape.in_gains) == ("convex", "concave"), role
        assert shape.vanishing == (
            pytest.approx((-10, -4.3565), abs=0.011),
            pytest.approx((4.3565, 10), abs=0.011),
        )
    # v''(1) = d (s(-1) - s(1)) with s(1) = 0.731059: 0.196612 * -0.462117 = -0.090858
    assert numbers["desirable"].curvature[1.0] == pytest.approx(
        (0.090858 * weights[0], -0.090858 * weights[0]), abs=1e-5
    )


def test_simpo():
    """With gamma = beta gamma_over_beta = 2 * 0.5 = 1, v = log s(x - 1) - log s(-1), slope s(1 - x), aversion at x
    s(1 + x) / s(1 - x): s(2) / s(0) = 1.7616 at 1. x of one nat on 20 tokens is 2 / 20."""
    found, numbers = functions(SimPO())["chosen"], shapes(SimPO())["chosen"]
    assert found.scale == 0.1
    d = s(POINTS - 1) * s(1 - POINTS)
    check(found, np.log(s(POINTS - 1) / s(-1)), s(1 - POINTS), -d)
    assert numbers.aversion == pytest.approx({0: 1, 1: s(2) / s(0), 2: s(3) / s(-1)}, rel=1e-5)
    assert numbers.slope_gain == pytest.approx(s(1), abs=1e-6)
    # s(1 - x) < 0.05 above 1 + log 19
    assert numbers.vanishing == (pytest.approx((1 + math.log(19), 10), abs=0.011),)


def test_sft_values_every_nat_the_same_and_logs_no_reward():
    found, shape = functions(SFT())["demonstrations"], shapes(SFT())["demonstrations"]
    check(found, POINTS, np.ones(5), np.zeros(5))
    assert (found.scale, found.logged, found.unit) == (1, False, "nats of log-ratio")
    assert (shape.in_losses, shape.in_gains, shape.vanishing) == ("affine", "affine", ())


def test_kahneman_tversky():
    """x^0.88 for gains and -2.25 |x|^0.88 for losses: at 2, 1.840375 and -4.140844; slope at 1, 0.88 and 1.98."""
    value, slope, _ = kahneman_tversky().at(np.array([2.0, -2.0, 1.0, -1.0]))
    np.testing.assert_allclose(value, [2**0.88, -2.25 * 2**0.88, 1, -2.25])
    assert value[0] == pytest.approx(1.840375, abs=1e-6)
    np.testing.assert_allclose(slope[2:], [0.88, 1.98])
    shape = describe(kahneman_tversky())
    assert shape.aversion == pytest.approx({0: 2.25, 1: 2.25, 2: 2.25})
    assert (shape.in_losses, shape.in_gains) == ("convex", "concave")
    # second derivative at 1: 0.88 * -0.12 = -0.1056, and 2.25 times as much for losses
    assert shape.curvature[1.0] == pytest.approx((0.2376, -0.1056), abs=1e-6)


def test_the_closed_form_and_the_loss_of_that_name_agree():
    """KTO with the power function is linear within 0.01 of the reference point and the power elsewhere."""
    role = functions(loss_of("kto_kahneman_tversky"))["desirable"]
    for found, expected in zip(role.at(POINTS), kahneman_tversky().at(POINTS), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_hinge_has_an_edge():
    """max(0, 1 - x): slope 1 below 1 and 0 above, whether or not the loss logs a reward (0.1 per nat)."""
    shape = shapes(halo_losses.Hinge())["chosen"]  # logs none, so x is in nats and the edge at 10
    assert (shape.slope_loss, shape.slope_gain) == pytest.approx((0.1, 0.1))
    assert shape.aversion == pytest.approx({0: 1, 1: 1, 2: 1})


def test_values_are_what_training_follows_where_a_part_is_held_constant():
    drawn = curve(functions(halo_losses.HeldConstant())["desirable"], widest=3)
    assert drawn.held_constant
    np.testing.assert_allclose(drawn.slope, 1 + drawn.x, atol=1e-9)
    np.testing.assert_allclose(drawn.value, drawn.x + drawn.x**2 / 2, atol=1e-4)
    assert not curve(functions(DPO())["chosen"]).held_constant
    assert not curve(functions(halo_losses.Hinge())["chosen"]).held_constant


def test_a_class_without_weight_is_ignored_everywhere():
    shape = shapes(KTO(undesirable_weight=0))["undesirable"]
    assert shape.vanishing == (pytest.approx((-10, 10), abs=0.011),)
    assert (shape.in_losses, shape.in_gains) == ("flat", "flat")
    assert all(math.isnan(ratio) for ratio in shape.aversion.values())


def test_where_slopes_grow_without_end_the_reference_point_is_the_yardstick():
    """Square: slope -2r, 0 at the reference point; (r + 1)^2 would be 2. The value of r^2 vanishes nowhere but at 0."""
    shape = shapes(halo_losses.Square())["desirable"]
    assert shape.still_steeper
    assert shape.steepest == pytest.approx(2 * 9.995)
    assert shapes(loss_of("ipo"))["chosen"].still_steeper
    # IPO at beta 0.1: (10 x - 5)^2, slope 100 - 200 x, 5% of the 100 at 0 within 0.025 of the target 0.5
    assert shapes(loss_of("ipo"))["chosen"].vanishing == (pytest.approx((0.475, 0.525), abs=0.011),)


def test_what_is_infeasible_is_left_out():
    """A completion of 20 tokens of -20 nats cannot gain 400 nats: at beta 0.01, DPO's reward ends below 4."""
    function = functions(DPO(beta=0.01))["chosen"]
    drawn = curve(function)
    assert 3.9 < drawn.x[-1] < 4.0
    assert drawn.x[0] == pytest.approx(-9.995)
    assert np.isfinite(drawn.value).all()
    assert np.isnan(function.at(np.array([5.0]))).all()
    log_ratio = torch.tensor(drawn.x[-1] / 0.01).reshape(1)
    assert (Probe(DPO()).completions(log_ratio).policy < 0).all()


def test_the_batch_stands_at_the_reference_point():
    """A probe asks the loss itself what its reference point is there: for KTO 0, and max(0, r) for a batch at r; for
    KTO without a reference the mean log-probability, -20 * 20 nats."""
    assert Probe(KTO()).read_off(0) == 0
    assert Probe(KTO()).read_off(7) == pytest.approx(7)
    assert Probe(KTO()).read_off(-7) == 0
    assert Probe(loss_of("kto_no_reference")).read_off(0) == pytest.approx(-TOKENS * NATS)
    # BCO: the mean reward of the past, 0.1 * 7 in units of the reward, so 7 nats
    assert Probe(loss_of("bco")).read_off(7) == pytest.approx(7)


def test_contexts_move_what_stands_beside():
    probe = Probe(DPO())
    zero, at = torch.zeros(1, dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    beside = probe.read("chosen", zero, Context(other=-3.0))
    torch.testing.assert_close(beside.loss, probe.read("chosen", at).loss)
    kto = Probe(KTO())
    torch.testing.assert_close(
        kto.read("desirable", at, Context(scalar=3.0)).loss, kto.read("desirable", zero, Context(scalar=0.0)).loss
    )


@pytest.mark.parametrize(
    ("slope", "word"),
    [
        ([1.0, 1.0, 1.0], "affine"),
        ([3.0, 2.0, 1.0], "concave"),
        ([-1.0, 0.0, 1.0], "convex"),
        ([1.0, 2.0, 1.0], "mixed"),
        ([0.0, 0.0, 0.0], "flat"),
        ([1.0, math.nan, 1.0], "not a number"),
    ],
)
def test_bends(slope, word):
    assert bend(np.array(slope), np.array([3.0])) == word


def test_without_a_reference_the_reference_point_is_where_the_batch_stands():
    """KTO without a reference, at log-probabilities of -400 nats and z_0 the mean of a batch of the same: s'(0) = 1/4
    times the weights 1.75 and 1."""
    found = shapes(loss_of("kto_no_reference", desirable_weight=1.75))
    assert found["desirable"].slope_gain == pytest.approx(1.75 / 4)
    assert found["undesirable"].slope_gain == pytest.approx(-1 / 4)
