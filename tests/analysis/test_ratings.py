"""Bradley-Terry ratings and the length-controlled win rate, against a general logistic regression."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from analysis.statistics import bradley_terry, length_controlled_win_rate


def preferences(seed=0, methods=3, prompts=60, seeds=1):
    draw = np.random.default_rng(seed)
    utility = 0.3 * np.arange(methods)[:, None, None] + draw.gumbel(size=(methods, seeds, prompts))
    return (utility[:, None] > utility[None]).astype(float)


def test_two_methods_by_hand():
    # 30 wins of 40: log-odds log(3), standard error sqrt(1 / 30 + 1 / 10) but for n - 1, and Student's t with 39.
    wins = np.full((2, 2, 40), np.nan)
    wins[1, 0] = [1.0] * 30 + [0.0] * 10
    found = bradley_terry(wins)
    assert found.value == pytest.approx([0, np.log(3)])
    plain = 2 * 2.0227 * np.sqrt((1 / 30 + 1 / 10) * 40 / 39)
    assert plain < found.high[1] - found.low[1] < 1.05 * plain, "a little wider, since wins and losses are skewed"
    assert (found.low[0], found.high[0], found.seeds, found.prompts) == (0, 0, 1, 40)


def test_ratings_agree_with_a_logistic_regression():
    values = preferences()
    rows, outcomes = [], []
    for i in range(3):
        for j in range(i):
            for won in values[i, j].ravel():
                rows.append(np.eye(3)[i] - np.eye(3)[j])
                outcomes.append(won)
    fit = sm.GLM(outcomes, np.array(rows)[:, 1:], family=sm.families.Binomial()).fit()
    assert bradley_terry(values).value[1:] == pytest.approx(fit.params, abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.permutations(range(4)))
def test_ratings_follow_a_swap_of_methods(seed, order):
    values, order = preferences(seed, methods=4), np.array(order)
    found = bradley_terry(values)
    swapped = bradley_terry(values[order][:, order], baseline=int(np.argsort(order)[0]))
    assert swapped.value == pytest.approx(found.value[order], abs=1e-7)
    assert swapped.low == pytest.approx(found.low[order], abs=1e-6)


def test_turned_preferences_turn_ratings():
    values = preferences(3)
    found, turned = bradley_terry(values), bradley_terry(1 - values)
    assert turned.value == pytest.approx(-found.value)
    assert turned.high == pytest.approx(-found.low, abs=1e-6)


def test_a_tie_is_half_a_win():
    wins = np.full((2, 2, 3), np.nan)
    wins[0, 1] = [1, 0.5, 0]
    assert bradley_terry(wins).value == pytest.approx([0, 0])


def test_what_is_not_connected_is_refused():
    wins = np.full((3, 3, 4), np.nan)
    wins[0, 1] = [1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"groups of methods \[0, 1\]; \[2\]"):
        bradley_terry(wins)
    wins[1, 2] = 1
    with pytest.raises(ValueError, match="no finite ratings"):
        bradley_terry(wins)
    with pytest.raises(ValueError, match="add up to 1"):
        bradley_terry(np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match="baseline"):
        bradley_terry(preferences(), baseline=3)


def lengths(seed=0, seeds=1):
    draw = np.random.default_rng(seed)
    theirs = draw.poisson(60, (seeds, 200)).astype(float)
    ours = draw.poisson(75, (seeds, 200)).astype(float)
    wins = (draw.random((seeds, 200)) < expit(-0.4 + 1.2 * np.tanh((ours - theirs) / 12))).astype(float)
    return wins, ours, theirs


def test_length_controlled_win_rate_agrees_with_a_logistic_regression():
    wins, ours, theirs = lengths()
    longer = (ours - theirs).ravel()
    design = sm.add_constant(np.tanh(longer / longer.std()))
    fit = sm.GLM(wins.ravel(), design, family=sm.families.Binomial()).fit(cov_type="HC1")
    found = length_controlled_win_rate(wins, ours, theirs)
    assert logit(found.value) == pytest.approx(fit.params[0], abs=1e-6)
    assert found.length_effect == pytest.approx(fit.params[1], abs=1e-6)
    assert logit(found.high) - logit(found.low) == pytest.approx(2 * 1.972 * fit.bse[0], rel=0.03)
    assert found.value < found.raw, "length is rewarded, and ours are longer"


def test_without_length_differences_it_is_the_raw_win_rate():
    wins = np.array([[1.0] * 6 + [0.5] + [0.0] * 3])
    found = length_controlled_win_rate(wins, np.full((1, 10), 7), np.full((1, 10), 7))
    assert (found.value, found.length_effect) == (pytest.approx(0.65), 0.0)


def test_turned_sides_turn_the_win_rate():
    wins, ours, theirs = lengths(1, seeds=3)
    found, turned = length_controlled_win_rate(wins, ours, theirs), length_controlled_win_rate(1 - wins, theirs, ours)
    assert turned.value == pytest.approx(1 - found.value)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)


def test_length_control_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="decides every comparison"):
        length_controlled_win_rate(np.array([[0.0, 0, 1, 1]]), np.array([[1.0, 2, 8, 9]]), np.full((1, 4), 5.0))
    with pytest.raises(ValueError, match="same shape"):
        length_controlled_win_rate(np.ones((1, 4)), np.ones((1, 3)), np.ones((1, 4)))
