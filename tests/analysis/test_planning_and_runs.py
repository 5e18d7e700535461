"""Minimum detectable effects, and summaries over runs."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import power_proportions_2indep

from analysis.statistics import (
    Components,
    interquartile_mean,
    interquartile_mean_estimate,
    minimum_detectable_effect,
    minimum_detectable_rate_difference,
    needed_prompts,
    needed_seeds,
    performance_profile,
    power_of,
    probability_of_improvement,
)


def pilot(seed_sd=0.1, seeds=6, prompts=150):
    draw = np.random.default_rng(1)
    return (
        seed_sd * draw.normal(size=(seeds, 1))
        + 0.4 * draw.normal(size=(1, prompts))
        + draw.normal(size=(seeds, prompts))
    )


def test_one_seed_agrees_with_statsmodels():
    differences = pilot()[:1]
    expected = TTestPower().solve_power(nobs=150, power=0.8, alpha=0.05) * differences.std(ddof=1)
    assert minimum_detectable_effect(differences) == pytest.approx(expected, rel=1e-4)
    expected = TTestPower().solve_power(nobs=80, power=0.9, alpha=0.05 / 6) * differences.std(ddof=1)
    found = minimum_detectable_effect(differences, prompts=80, power=0.9, comparisons=6)
    assert found == pytest.approx(expected, rel=1e-4)


def test_more_of_anything_detects_less():
    differences = pilot()
    found = [
        minimum_detectable_effect(differences, seeds=s, prompts=p) for s, p in ((2, 100), (3, 100), (5, 100), (5, 400))
    ]
    assert found == sorted(found, reverse=True)
    assert minimum_detectable_effect(differences, comparisons=10) > minimum_detectable_effect(differences)
    assert power_of(Components(0.01, 0.1, 1.0), 0.0, 3, 100) == pytest.approx(0.05, abs=0.01)


def test_needed_numbers_are_the_fewest_that_suffice():
    differences = pilot()
    prompts = needed_prompts(differences, 0.5, seeds=4)
    assert minimum_detectable_effect(differences, seeds=4, prompts=prompts) <= 0.5
    assert minimum_detectable_effect(differences, seeds=4, prompts=prompts - 1) > 0.5
    seeds = needed_seeds(differences, 0.25, prompts=150)
    assert minimum_detectable_effect(differences, seeds=seeds) <= 0.25
    assert minimum_detectable_effect(differences, seeds=seeds - 1) > 0.25


def test_no_number_of_prompts_makes_up_for_seeds():
    assert needed_prompts(pilot(seed_sd=0.5), 0.2, seeds=2) is None
    assert needed_seeds(pilot(), 0.01, prompts=50) is None


def test_planning_says_what_it_lacks():
    with pytest.raises(ValueError, match="cannot be known from one seed"):
        minimum_detectable_effect(pilot()[:1], seeds=3)
    with pytest.raises(ValueError, match="effect must be above 0"):
        needed_prompts(pilot(), 0.0)
    with pytest.raises(ValueError, match=r"power=1\.5"):
        minimum_detectable_effect(pilot(), power=1.5)
    with pytest.raises(ValueError, match="two or more prompts"):
        minimum_detectable_effect(np.ones((3, 1)))


def test_published_rates_agree_with_statsmodels():
    gap = minimum_detectable_rate_difference(0.4, 512)
    assert power_proportions_2indep(gap, 0.4, 512, return_results=False) == pytest.approx(0.8, abs=0.002)
    assert minimum_detectable_rate_difference(0.9, 3) == float("inf")


def test_interquartile_mean_by_hand_and_against_scipy():
    assert interquartile_mean(np.array([[0.0, 1, 2, 100]])) == 1.5
    # Of six, the middle three: half of the second and of the fifth, the third and the fourth.
    assert interquartile_mean(np.array([[0.0, 1, 2, 3, 5, 100]])) == pytest.approx((0.5 + 2 + 3 + 2.5) / 3)
    values = np.random.default_rng(2).normal(size=(4, 25))
    assert interquartile_mean(values) == pytest.approx(trim_mean(values.ravel(), 0.25))
    found = interquartile_mean_estimate(values)
    assert found.low < found.value < found.high
    with pytest.raises(ValueError, match="every outcome"):
        interquartile_mean(np.array([[1.0, np.nan]]))


def test_performance_profile_by_hand():
    found = performance_profile(np.array([[0.1, 0.4], [0.6, 0.9]]), np.array([0.0, 0.5, 0.9]))
    assert [one.value for one in found] == [1.0, 0.5, 0.0]
    assert all(one.low <= one.value <= one.high for one in found)


def test_probability_of_improvement_is_mann_whitney_per_prompt():
    draw = np.random.default_rng(3)
    first, second = draw.integers(0, 5, (4, 6)).astype(float), draw.integers(0, 5, (3, 6)).astype(float)
    expected = np.mean([mannwhitneyu(first[:, p], second[:, p]).statistic / 12 for p in range(6)])
    found, turned = probability_of_improvement(first, second), probability_of_improvement(second, first)
    assert found.value == pytest.approx(expected)
    assert turned.value == pytest.approx(1 - found.value)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))
    assert probability_of_improvement(first, first).value == 0.5
    sure = probability_of_improvement(first + 9, second)
    assert sure.value == 1
    assert sure.low < 1
