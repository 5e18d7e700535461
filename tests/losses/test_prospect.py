"""What KTO and its relatives share: weights, diagnostics, and the warnings before and after training."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pytest
import torch
from family import TRAINED, loss_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.bco import BCO
from kto_bench.losses.kto import KTO
from kto_bench.losses.kto_kahneman_tversky import KTOKahnemanTversky
from kto_bench.losses.kto_no_reference import KTONoReference
from kto_bench.losses.prospect import Prospect

laws = settings(max_examples=50, deadline=None)

MEMBERS = {name: loss for name in TRAINED if isinstance(loss := loss_of(name), Prospect)}
each_member = pytest.mark.parametrize("loss", MEMBERS.values(), ids=MEMBERS)
counts = st.integers(1, 100_000)
weights = st.floats(0.01, 100)


def test_members() -> None:
    ablations = {f"kto_{name}" for name in ("no_reference_point", "concave", "risk_neutral", "no_reference")}
    assert {"kto", "bco", "kto_kahneman_tversky", "humanline_kto", *ablations} <= set(MEMBERS)


@each_member
def test_no_weight_at_all_is_refused(loss: Prospect) -> None:
    with pytest.raises(ValueError, match=r"both 0.*raise one"):
        type(loss)(desirable_weight=0, undesirable_weight=0)


@each_member
@pytest.mark.parametrize("weight", ["desirable_weight", "undesirable_weight"])
@pytest.mark.parametrize("infinite", [-math.inf, math.inf])
@laws
@given(seed=st.integers(0, 2**32 - 1))
def test_a_class_without_weight_is_ignored(
    loss: Prospect, weight: str, infinite: float, seed: int, make_batch: Any
) -> None:
    """Exactly: zero loss and zero gradient, even where its log-ratio is infinite."""
    loss = type(loss)(**{**loss.model_dump(), weight: 0.0})
    batch = make_batch(loss, seed=seed)
    completions, desirable = batch.columns
    ignored = desirable if weight == "desirable_weight" else ~desirable
    with torch.no_grad():
        completions.policy[ignored.nonzero()[:1]] = infinite
    output = batch.output(loss)
    assert (output.losses[ignored] == 0).all()
    output.losses.sum().backward()
    assert (completions.policy.grad[ignored] == 0).all()
    assert completions.policy.grad.isfinite().all()
    label = weight.removesuffix("_weight")
    values, applies = output.statistics[f"effective_weight/{label}"]
    assert (values[applies] == 0).all()


@each_member
@laws
@given(gain=st.floats(-40, 40).filter(lambda gain: abs(gain) > 1e-3 and abs(abs(gain) - 0.01) > 1e-4))
def test_relative_slope_is_that_of_the_value(loss: Prospect, gain: float) -> None:
    """Up to the largest slope, which is at most reached anywhere."""
    at = torch.tensor([gain, 2e-5, -2e-5, -700], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss.shortfall(at).sum(), at)
    relative = loss.relative_slope(at.detach())
    assert (gradient <= 0).all()
    assert (relative <= 1).all()
    torch.testing.assert_close(relative, -gradient / -gradient.min(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "edge"), [(KTO(beta=1.0), 4.356544), (KTONoReference(beta=1.0), 4.356544), (BCO(beta=1.0), math.log(19))]
)
def test_where_gains_saturate(loss: Prospect, edge: float) -> None:
    """KTO: 4 s (1 - s) = 0.05 at s = (1 + sqrt 0.95) / 2, a gain of 4.3565; log sigma: sigma(-g) = 0.05 at log 19."""
    slope = loss.relative_slope(torch.tensor([edge - 1e-5, edge + 1e-5], dtype=torch.float64))
    assert (slope < 0.05).tolist() == [False, True]


def test_the_power_function_saturates_far_away_only() -> None:
    slope = KTOKahnemanTversky().relative_slope(torch.tensor([2.7e5, 2.8e5, -2.3e8, -2.4e8], dtype=torch.float64))
    assert (slope < 0.05).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("loss", "desirable", "undesirable", "expected"),
    [
        (KTO(), 100, 100, None),
        (KTO(), 150, 100, None),
        (
            KTO(),
            99,
            100,
            "is 0.99 (1 * 99 / (1 * 100)).* 1 to 1.5 .*set desirable_weight between 1.011 and 1.515 and leave",
        ),
        (
            KTO(),
            151,
            100,
            "is 1.51 .*set undesirable_weight between 1.007 and 1.51 and leave desirable_weight as it is",
        ),
        (KTO(), 100, 1000, "is 0.1 .*set desirable_weight between 10 and 15 and leave undesirable_weight as it is"),
        (KTO(desirable_weight=13.33), 100, 1000, None),
        (KTO(desirable_weight=3, undesirable_weight=2), 50, 50, None),
        (KTO(desirable_weight=4, undesirable_weight=2), 50, 50, "is 2 .*set desirable_weight between 2 and 3 "),
        (KTO(), 100, 0, None),
        (KTO(), 0, 100, None),
        (KTO(desirable_weight=0), 100, 1000, None),
        (KTO(undesirable_weight=0), 100, 1000, None),
        (KTONoReference(), 100, 100, None),
        (KTONoReference(), 200, 100, "is 3.5 .* 1 to 1.75 "),
        (BCO(), 100, 1000, None),
    ],
)
def test_warning_about_the_ratio(loss: Prospect, desirable: int, undesirable: int, expected: str | None) -> None:
    warnings = loss.data_warnings(desirable, undesirable)
    assert len(warnings) == (expected is not None)
    if expected is not None:
        pattern = expected.replace("(1 * 99 / (1 * 100))", re.escape("(1 * 99 / (1 * 100))"))
        assert re.search(pattern, warnings[0])
        assert "versions 4 and 5 of the KTO paper, Eq. 9" in warnings[0]


@laws
@given(desirable=counts, undesirable=counts, weight=weights, other=weights)
def test_both_ends_of_the_advice_heed_it(desirable: int, undesirable: int, weight: float, other: float) -> None:
    kto = KTO(desirable_weight=weight, undesirable_weight=other)
    ratio = weight * desirable / (other * undesirable)
    warnings = kto.data_warnings(desirable, undesirable)
    assert len(warnings) == (not 1 <= ratio <= 1.5)
    for warning in warnings:
        found = re.search(r"set (\w+) between (\S+) and (\S+) and leave", warning)
        assert found is not None
        name, *ends = found.groups()
        assert float(ends[0]) < float(ends[1])
        for end in ends:
            assert not kto.model_copy(update={name: float(end)}).data_warnings(desirable, undesirable)


def steps(desirable: list[float], undesirable: list[float]) -> list[dict[str, float]]:
    pairs = zip(desirable, undesirable, strict=True)
    return [{"loss": 1.0, "rewards/desirable": a, "rewards/undesirable": b} for a, b in pairs]


FALLING = [-0.1 * step for step in range(16)]
RISING = [0.1 * step for step in range(16)]


def test_both_rewards_falling_is_warned_of() -> None:
    """Quarters of 4: the first mean is -0.15, the last -1.35; twice that for undesirable completions."""
    (warning,) = KTO().training_warnings(steps(FALLING, [2 * reward for reward in FALLING]))
    assert "desirable completions from -0.15 to -1.35 and of undesirable completions from -0.3 to -2.7" in warning
    assert "lower train.learning_rate" in warning


@pytest.mark.parametrize(
    ("desirable", "undesirable"),
    [
        (RISING, FALLING),
        (FALLING, RISING),
        (RISING, RISING),
        ([0.0] * 16, FALLING),
        (FALLING[:7], FALLING[:7]),
        ([0.01 * reward for reward in FALLING], FALLING),
        ([reward + 3 for reward in FALLING], FALLING),
        ([0.0] * 12 + [-5.0, 0, 0, 0], FALLING),
    ],
    ids=["liked", "disliked", "both_up", "one_still", "few_steps", "hardly", "down_but_above_0", "one_outlier"],
)
def test_other_rewards_are_no_warning(desirable: list[float], undesirable: list[float]) -> None:
    assert KTO().training_warnings(steps(desirable, undesirable)) == []


def test_steps_without_a_class_do_not_count() -> None:
    """Labels come in runs of one class; each class has 8 steps, and each falls."""
    metrics = []
    for step in steps(FALLING, FALLING):
        number = len(metrics)
        metrics.append({key: value for key, value in step.items() if number % 2 == key.endswith("undesirable")})
    assert len(KTO().training_warnings(metrics)) == 1
    assert KTO().training_warnings(metrics[:14]) == []
    assert KTO().training_warnings([]) == []


@pytest.mark.parametrize("spread", [0.001, 0.05, 0.3, 2.0])
def test_noise_is_rarely_a_warning(spread: float) -> None:
    """Rewards that only scatter about 0, in 1000 trainings of 8 to 100 steps: fewer than 5 warnings."""
    draw = random.Random(0)
    warned = 0
    for _ in range(1000):
        number = draw.randint(8, 100)
        rewards = [[draw.gauss(0, spread) for _ in range(number)] for _ in range(2)]
        warned += len(KTO().training_warnings(steps(*rewards)))
    assert warned < 5


def test_without_a_reference_rewards_need_not_be_below_0_at_first() -> None:
    """beta * log pi is always below 0, so that alone says nothing: only the fall counts."""
    loss = KTONoReference()
    assert loss.training_warnings(steps([-20.0] * 16, [-20.0] * 16)) == []
    assert loss.training_warnings(steps([reward - 20 for reward in RISING], [reward - 20 for reward in RISING])) == []
    assert len(loss.training_warnings(steps([reward - 20 for reward in FALLING], FALLING))) == 1
