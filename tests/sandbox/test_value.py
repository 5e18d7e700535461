"""Expected values are computed by hand from the equations of Tversky and Kahneman (1992)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_bench.sandbox.value import ValueFunction, weight

HUMAN = ValueFunction(0.88, 0.88, 2.25, 0.61, 0.69)
outcomes = st.floats(-6, 6)
gammas = st.floats(0.28, 1)


def at(number):
    return np.array([number], dtype=float)


def test_value_is_equation_5():
    found = HUMAN.value(np.array([1.0, 0.5, 0.0, -0.5, -1.0]))
    assert found == pytest.approx([1, 0.5434, 0, -2.25 * 0.5434, -2.25], abs=1e-4)
    assert ValueFunction(0.5, 1.0, 2.0).value(np.array([4.0, -4.0])) == pytest.approx([2, -8])


def test_weight_is_equation_6():
    """The published curve of gains (gamma 0.61): w(0.1) = 0.186, w(0.5) = 0.421, w(0.9) = 0.712."""
    assert weight(np.array([0.0, 0.1, 0.5, 0.9, 1.0]), 0.61) == pytest.approx([0, 0.186, 0.421, 0.712, 1], abs=5e-4)
    assert weight(np.array([0.1, 0.5]), 0.69) == pytest.approx([0.1701, 0.4540], abs=1e-3)


def test_a_mixed_prospect_weighs_gain_and_loss_each_by_its_own_gamma():
    """Seems right (0.7 above the reference point), is wrong with probability 0.1 (1.3 below it)."""
    by_hand = 0.7117 * 0.7**0.88 - 0.1701 * 2.25 * 1.3**0.88
    assert HUMAN.prospect(at(0.7), at(-1.3), 0.1) == pytest.approx(by_hand, abs=1e-3)
    by_hand = 0.1863 * 0.7**0.88 - 0.7749 * 2.25 * 1.3**0.88  # the same, taken for wrong
    assert HUMAN.prospect(at(-1.3), at(0.7), 0.1) == pytest.approx(by_hand, abs=1e-3)


def test_of_two_gains_the_smaller_is_sure():
    assert HUMAN.prospect(at(3.0), at(1.0), 0.1) == pytest.approx(1 + 0.7117 * (3**0.88 - 1), abs=1e-3)
    assert HUMAN.prospect(at(-1.0), at(-3.0), 0.1) == pytest.approx(-2.25 * (1 + 0.1701 * (3**0.88 - 1)), abs=1e-3)


@given(outcomes, outcomes, st.floats(0.01, 0.99))
def test_without_curvature_it_is_the_expectation(one, other, chance):
    expected = (1 - chance) * one + chance * other
    assert ValueFunction().prospect(at(one), at(other), chance) == pytest.approx(expected, abs=1e-9)


@given(outcomes, outcomes, st.floats(0.01, 0.99), gammas)
def test_a_prospect_lies_between_its_outcomes(one, other, chance, gamma):
    human = ValueFunction(0.88, 0.7, 2.25, gamma, 0.69)
    low, high = sorted([human.value(at(one))[0], human.value(at(other))[0]])
    assert low - 1e-9 <= human.prospect(at(one), at(other), chance)[0] <= high + 1e-9


@given(outcomes, outcomes, gammas)
def test_what_is_sure_has_its_value_whatever_gamma_is(one, other, gamma):
    human = ValueFunction(0.88, 0.88, 2.25, gamma, gamma)
    assert human.prospect(at(one), at(other), 0)[0] == human.value(at(one))[0]
    assert human.prospect(at(one), at(one), 0.3)[0] == pytest.approx(human.value(at(one))[0])


@given(gammas, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_weights_rise_with_probability(gamma, probabilities):
    weights = weight(np.array(sorted(probabilities)), gamma)
    assert (np.diff(weights) >= -1e-9).all()
    assert weights.min() >= 0
    assert weights.max() <= 1
