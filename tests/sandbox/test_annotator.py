import math
import random
from statistics import mean

import pytest

from kto_bench.sandbox.annotator import Annotator

EXACT = Annotator(noise=0)
RNG = random.Random(0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_value_is_that_of_prospect_theory():
    assert EXACT.value(0.3, RNG) == 0
    assert EXACT.value(1.3, RNG) == pytest.approx(1)
    assert EXACT.value(-0.7, RNG) == pytest.approx(-2.25)
    assert EXACT.value(0.8, RNG) == pytest.approx(0.5**0.88)
    assert Annotator(noise=0, loss_aversion=1, risk_aversion=1).value(-2, RNG) == pytest.approx(-2.3)


def test_probabilities_of_choice_and_approval():
    rng = random.Random(1)
    chosen = mean(EXACT.prefers_first(1.0, 0.9, rng) for _ in range(20000))
    assert chosen == pytest.approx(sigmoid((0.7**0.88 - 0.6**0.88) / 0.35), abs=0.01)
    approved = mean(EXACT.approves(0.1, rng) for _ in range(20000))
    assert approved == pytest.approx(sigmoid(-2.25 * 0.2**0.88 / 0.35), abs=0.01)


def test_noise_is_about_what_is_perceived():
    rng = random.Random(2)
    linear = Annotator(noise=0.5, loss_aversion=1, risk_aversion=1, reference_point=0)
    values = [linear.value(0, rng) for _ in range(20000)]
    assert mean(values) == pytest.approx(0, abs=0.015)
    assert mean(value**2 for value in values) == pytest.approx(0.25, abs=0.01)


def test_extreme_values_do_not_overflow():
    cold = Annotator(noise=0, temperature=1e-6)
    assert cold.prefers_first(1.3, -5.45, RNG)
    assert not cold.prefers_first(-5.45, 1.3, RNG)
    assert not cold.approves(-5.45, RNG)
