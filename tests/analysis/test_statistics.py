"""Statistics against hand-computed values, against scipy, and by simulation with a known truth."""

import numpy as np
import pytest
from scipy.stats import binomtest

from analysis.statistics import (
    best_of_trials,
    estimate,
    expected_best,
    holm,
    paired_difference,
    two_level_bootstrap,
    wilson,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_wilson_by_hand():
    # n = 4, 2 wins, z = 1.959964: z^2 = 3.841459, centre 1/2, half width z / (1 + z^2/4) * sqrt(1/16 + z^2/64)
    # = 1.959964 / 1.960365 * sqrt(0.0625 + 0.0600228) = 0.999796 * 0.350032 = 0.349961
    assert wilson(2, 4) == pytest.approx((0.150039, 0.849961), abs=1e-5)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (10, 10), (3, 17), (128, 256)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_agrees_with_scipy(wins, n, confidence):
    expected = binomtest(wins, n).proportion_ci(confidence, method="wilson")
    assert wilson(wins, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_with_ties_lies_between_its_neighbours():
    assert wilson(3, 10)[0] < wilson(3.5, 10)[0] < wilson(4, 10)[0]


@pytest.mark.parametrize(("wins", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(wins, n):
    with pytest.raises(ValueError, match="wins"):
        wilson(wins, n)


def test_wilson_covers_with_and_without_ties():
    draw = rng(1)
    plain = draw.binomial(1, 0.3, size=(2000, 60)).sum(axis=1)
    tied = draw.choice([0, 0.5, 1], p=[0.4, 0.4, 0.2], size=(2000, 60)).sum(axis=1)
    covered = {
        truth: np.mean([low <= truth <= high for low, high in (wilson(wins, 60) for wins in samples)])
        for truth, samples in ((0.3, plain), (0.4, tied))
    }
    assert 0.93 < covered[0.3] < 0.97
    assert covered[0.4] > 0.98  # ties make it wider than needed, as its docstring says


def test_bootstrap_of_one_seed_has_the_spread_of_prompts():
    outcomes = rng(2).normal(size=(1, 400))
    spread = two_level_bootstrap(outcomes, rng()).std()
    assert spread == pytest.approx(outcomes.std() / 20, rel=0.05)


def test_bootstrap_of_seeds_alone_is_not_too_narrow():
    # No spread over prompts: the variance of the mean is s^2 / S, with S = 4 and the unbiased s^2 = 14.75 / 3 = 59 /
    # 12.
    outcomes = np.array([[1.0], [2.0], [4.0], [6.0]]) * np.ones((1, 5))
    assert np.var([1, 2, 4, 6], ddof=1) == pytest.approx(59 / 12)
    assert two_level_bootstrap(outcomes, rng(), 40_000).var() == pytest.approx(59 / 48, rel=0.03)


def test_bootstrap_of_two_seeds_spans_both():
    outcomes = np.array([[0.0], [1.0]]) * np.ones((1, 50))
    result = estimate(outcomes, rng())
    assert (result.value, result.low, result.high) == (0.5, 0.0, 1.0)


def test_bootstrap_resamples_prompts_as_columns():
    # Prompts differ, seeds agree: the spread is that of 30 prompts, not of 150 answers.
    outcomes = np.tile(rng(3).normal(size=(1, 30)), (5, 1))
    expected = outcomes[0].std() / np.sqrt(30)
    assert two_level_bootstrap(outcomes, rng()).std() == pytest.approx(expected, rel=0.06)


def test_bootstrap_ignores_missing_outcomes():
    outcomes = np.array([[1.0, np.nan, 1.0], [np.nan, 1.0, 1.0]])
    assert set(two_level_bootstrap(outcomes, rng())) == {1.0}
    result = estimate(outcomes, rng())
    assert (result.value, result.seeds, result.prompts) == (1.0, 2, 3)
    with pytest.raises(ValueError, match="not NaN"):
        two_level_bootstrap(np.full((2, 2), np.nan), rng())


def test_same_generator_same_interval():
    outcomes = rng(4).random((3, 50))
    assert estimate(outcomes, rng(5)) == estimate(outcomes, rng(5))
    assert estimate(outcomes, rng(5)) != estimate(outcomes, rng(6))


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_interval_never_collapses_where_all_outcomes_agree(seeds):
    result = estimate(np.ones((seeds, 40)), rng(), bounded=True)
    assert (result.low, result.high) == pytest.approx(wilson(40, 40))


def coverage(seeds, seed_sd, repetitions=150):
    """Share of 95% intervals that cover 0, for prompts of sd 0.4 and noise of sd 0.6."""
    draw = rng(7)
    hits = 0
    for _ in range(repetitions):
        outcomes = seed_sd * draw.normal(size=(seeds, 1)) + 0.4 * draw.normal(size=(1, 60))
        result = estimate(outcomes + 0.6 * draw.normal(size=(seeds, 60)), draw)
        hits += result.low <= 0 <= result.high
    return hits / repetitions


def test_coverage_is_nominal_or_above_where_seeds_matter_no_more_than_prompts():
    assert coverage(seeds=1, seed_sd=0.0) > 0.90
    assert coverage(seeds=3, seed_sd=0.05) > 0.94


def test_coverage_with_few_influential_seeds_is_as_the_docstring_admits():
    assert 0.68 < coverage(seeds=2, seed_sd=0.3) < 0.88
    assert 0.80 < coverage(seeds=3, seed_sd=0.3) < 0.95


def test_paired_difference_cancels_what_is_shared():
    draw = rng(8)
    shared = draw.normal(size=(3, 1)) + draw.normal(size=(1, 100))
    noise = 0.1 * draw.normal(size=(2, 3, 100))
    result = paired_difference(shared + 0.2 + noise[0], shared + noise[1], rng())
    assert result.low < 0.2 < result.high
    assert result.high - result.low < 0.1  # the unpaired spread of prompts alone would make it 0.4
    assert result.p_value == pytest.approx(2 / 10_001)
    assert (result.seeds, result.prompts) == (3, 100)
    reverse = paired_difference(shared + noise[1], shared + 0.2 + noise[0], rng())
    assert reverse.value == pytest.approx(-result.value)


def test_equal_methods_have_p_one_and_unequal_shapes_are_refused():
    same = rng(9).random((2, 20))
    assert paired_difference(same, same, rng()).p_value == 1.0
    with pytest.raises(ValueError, match="same seeds and prompts"):
        paired_difference(same, same[:, :5], rng())


def test_p_values_reject_rarely_under_the_null():
    draw = rng(10)
    rejected = [
        paired_difference(draw.binomial(1, 0.5, (3, 50)), draw.binomial(1, 0.5, (3, 50)), draw).p_value < 0.05
        for _ in range(120)
    ]
    assert np.mean(rejected) <= 0.07


def test_holm_by_hand():
    # Sorted: .01 * 4 = .04, .02 * 3 = .06, .03 * 2 = .06, .04 * 1 = .04 -> not below its predecessor: .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


def test_expected_best_by_hand():
    # The default scores 0.5, the others 0.2, 0.8, 0.6. Of two trials: the mean of max(0.5, x) = (0.5 + 0.8 + 0.6) / 3.
    # Of three: pairs of others give 0.8, 0.6, 0.8. Of four: the best of all.
    expected = [0.5, 1.9 / 3, 2.2 / 3, 0.8]
    assert expected_best(np.array([0.5, 0.2, 0.8, 0.6])) == pytest.approx(expected)
    assert expected_best(np.array([0.5, 0.6, 0.8, 0.2])) == pytest.approx(expected), "in any order"
    assert expected_best(np.array([0.9, 0.2, 0.8, 0.6])) == pytest.approx([0.9] * 4)
    assert expected_best(np.array([0.3])) == pytest.approx([0.3])
    stacked = np.array([[0.5, 0.2, 0.8, 0.6], [0.9, 0.2, 0.8, 0.6]])
    assert expected_best(stacked)[0] == pytest.approx(expected)


def test_expected_best_is_unbiased():
    # Beside a default that always loses, n - 1 uniform draws: their best is (n - 1) / n on average.
    scores = np.concatenate([np.full((20_000, 1), -9.0), rng(5).random((20_000, 5))], axis=1)
    assert expected_best(scores).mean(axis=0)[1:] == pytest.approx([1 / 2, 2 / 3, 3 / 4, 4 / 5, 5 / 6], abs=0.005)


def test_best_of_trials_holds_its_values_and_knows_where_its_spread_is_from():
    outcomes = rng(6).binomial(1, [[0.4], [0.3], [0.7], [0.5]], size=(4, 100)).astype(float)
    found = best_of_trials(outcomes, rng())
    assert found.value == pytest.approx(expected_best(outcomes.mean(axis=1)))
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()
    default = outcomes[0].mean()  # the first trial is fixed: its interval is that of its prompts, 1.96 SD of their mean
    assert found.high[0] - default == pytest.approx(1.96 * np.sqrt(default * (1 - default) / 100), rel=0.15)
    same = np.repeat(outcomes[:, :1], 100, axis=1)
    assert best_of_trials(same, rng()).high[0] == same[0, 0], "no spread of prompts, and the first trial is no draw"


def test_best_of_trials_counts_a_trial_without_outcomes_as_the_worst():
    outcomes = np.array([[1.0, 0, 1, 0], [np.nan] * 4, [1, 1, 1, 0]])
    assert best_of_trials(outcomes, rng()).value == pytest.approx([0.5, (0.5 + 0.75) / 2, 0.75])
    outcomes = np.array([[np.nan] * 4, [1.0, 0, 1, 0], [1, 1, 1, 0]])
    assert best_of_trials(outcomes, rng()).value == pytest.approx([0.5, (0.5 + 0.75) / 2, 0.75])
    with pytest.raises(ValueError, match="at least one outcome"):
        best_of_trials(np.full((2, 3), np.nan), rng())
