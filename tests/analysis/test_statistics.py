"""Statistics against hand-computed values, against scipy, and by simulation with a known truth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, nct, ttest_1samp
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.statistics import (
    Components,
    best_of_trials,
    critical_width,
    crossed,
    estimate,
    expected_best,
    holm,
    mean_difference,
    paired_difference,
    variance_components,
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


def test_mean_squares_by_hand():
    # Rows (1, 3), (2, 6): means 2 and 4 of seeds, 1.5 and 4.5 of prompts, 3 of all; residuals +-0.5.
    # Mean squares: seeds 2 * (1 + 1) / 1 = 4, prompts 2 * (2.25 + 2.25) / 1 = 9, answers 4 * 0.25 / 1 = 1; over 4.
    spread = crossed(np.array([[1.0, 3], [2, 6]]))
    assert (spread.mean, spread.seed, spread.prompt, spread.answer) == (3, 1, 2.25, 0.25)
    assert spread.variance == 1 + 2.25 - 0.25
    assert variance_components(np.array([[1.0, 3], [2, 6]])) == Components(1.5, 4.0, 1.0)


def test_mean_squares_agree_with_an_analysis_of_variance():
    draw = rng(11)
    values = draw.normal(size=(4, 1)) + draw.normal(size=(1, 30)) + draw.normal(size=(4, 30))
    frame = pd.DataFrame([(v, s, p) for (s, p), v in np.ndenumerate(values)], columns=["y", "s", "p"])
    table = anova_lm(ols("y ~ C(s) + C(p)", frame).fit())
    squares = (table["sum_sq"] / table["df"]).to_list()
    spread = crossed(values)
    assert [120 * float(part) for part in (spread.seed, spread.prompt, spread.answer)] == pytest.approx(squares)


def test_one_seed_without_skewness_is_students_t():
    half = rng(2).normal(size=30)
    values = np.concatenate([half, -half])
    expected = ttest_1samp(values, 0.1)
    result = mean_difference(values[None] - 0.1)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    low, high = expected.confidence_interval(0.95)
    assert (result.low + 0.1, result.high + 0.1) == pytest.approx((low, high), abs=1e-6)


def test_seeds_alone_are_students_t_of_their_means():
    outcomes = np.array([[1.0], [2.0], [4.0], [6.0]]) * np.ones((1, 5))
    expected = ttest_1samp([1, 2, 4, 6], 0).confidence_interval(0.95)
    result = estimate(outcomes)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_prompts_alone_count_as_prompts_not_as_answers():
    outcomes = np.tile(rng(3).normal(size=(1, 30)), (5, 1))
    assert crossed(outcomes).variance == pytest.approx(outcomes[0].var(ddof=1) / 30)


def test_width_is_between_those_of_its_parts_and_their_sum():
    # Exact where one part is 0; otherwise at least the wider of both and at most their sum.
    t = [12.706205, 4.302653]
    for freedom, quantile in zip([1, 2], t, strict=True):
        alone = critical_width(1.0, 0.0, freedom, 1e9, 0.05)
        assert alone == pytest.approx(quantile)
        both = critical_width(1.0, 1.0, freedom, 1e9, 0.05)
        assert 2.77 < both < quantile + 1.96
    assert critical_width(1e-9, 1.0, 1, 60, 0.05) == pytest.approx(2.000298, rel=1e-3)


def test_skewness_moves_both_ends_towards_the_long_tail():
    skewed = rng(4).exponential(size=(1, 40))
    result = estimate(skewed)
    assert result.high - result.value > result.value - result.low
    assert estimate(-skewed).low == pytest.approx(-result.high)


def test_missing_outcomes_do_not_count():
    outcomes = np.array([[1.0, np.nan, 1.0], [np.nan, 1.0, 1.0]])
    result = estimate(outcomes)
    assert (result.value, result.low, result.high, result.seeds, result.prompts) == (1.0, 1.0, 1.0, 2, 3)
    padded = np.full((4, 50), np.nan)
    padded[:3, :40] = rng(5).normal(size=(3, 40))
    assert estimate(padded) == estimate(padded[:3, :40])
    with pytest.raises(ValueError, match="not NaN"):
        estimate(np.full((2, 2), np.nan))


def test_a_single_outcome_says_nothing():
    result = mean_difference(np.array([[0.3]]))
    assert (result.low, result.high, result.p_value) == (-np.inf, np.inf, 1.0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_interval_never_collapses_where_all_outcomes_agree(seeds):
    result = estimate(np.ones((seeds, 40)), bounded=True)
    assert (result.low, result.high) == pytest.approx(wilson(40, 40))


def test_bounded_intervals_are_wilsons_for_wins_and_shorter_with_ties():
    wins = rng(6).binomial(1, 0.3, (1, 50)).astype(float)
    result = estimate(wins, bounded=True)
    assert (result.low, result.high) == pytest.approx(wilson(wins.sum(), 50))
    ties = np.array([[0.5] * 30 + [0.0] * 10 + [1.0] * 10])
    result = estimate(ties, bounded=True)
    assert wilson(25, 50)[0] < result.low < 0.5 < result.high < wilson(25, 50)[1]
    with pytest.raises(ValueError, match="values from 0 to 2"):
        estimate(np.array([[0.0, 2.0]]), bounded=True)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_laws_of_paired_differences(seeds, prompts, seed):
    draw = rng(seed)
    first, second = draw.normal(size=(2, seeds, prompts))
    result, reverse = paired_difference(first, second), paired_difference(second, first)
    assert reverse.value == pytest.approx(-result.value)
    assert (reverse.low, reverse.high) == pytest.approx((-result.high, -result.low))
    assert reverse.p_value == pytest.approx(result.p_value)
    rows, columns = draw.permutation(seeds), draw.permutation(prompts)
    shuffled = paired_difference(first[rows][:, columns], second[rows][:, columns])
    assert (shuffled.low, shuffled.high, shuffled.p_value) == pytest.approx((result.low, result.high, result.p_value))
    moved = paired_difference(3 * first + 1, 3 * second + 1)
    assert (moved.low, moved.high) == pytest.approx((3 * result.low, 3 * result.high))


def test_skewness_that_a_few_seeds_exaggerate_makes_nothing_certain():
    """Two seeds that agree by chance, and prompts that do not differ beyond the noise of answers, hide all variance but
    a part of the noise's; the third moment stays, and divided by that it was a skewness of 9 and p = 0.0001."""
    outcomes = np.zeros((2, 16))
    outcomes[0, [1, 10, 11, 15]] = 1
    outcomes[1, [1, 2, 5, 9, 11, 13]], outcomes[1, [12, 15]] = 1, -1
    found = mean_difference(outcomes)
    assert found.value == 0.25
    assert found.p_value > 0.012, "that of a normal deviate of 0.25 over 0.1, the noise of answers"
    below, above = found.value - found.low, found.high - found.value
    assert 0.5 < below / above < 2


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(4, 12), st.integers(0, 2**32 - 1))
@example(1, 7, 19447)  # 0 lies between the mean and the middle of the interval, which skewness moves
def test_p_values_invert_intervals(seeds, prompts, seed):
    differences = rng(seed).normal(size=(seeds, prompts)) + 0.3
    p_value = mean_difference(differences).p_value
    result = mean_difference(differences, confidence=1 - p_value)
    assert min(abs(result.low), abs(result.high)) == pytest.approx(0, abs=1e-4)


def test_paired_difference_cancels_what_is_shared():
    draw = rng(8)
    shared = draw.normal(size=(3, 1)) + draw.normal(size=(1, 100))
    noise = 0.1 * draw.normal(size=(2, 3, 100))
    result = paired_difference(shared + 0.2 + noise[0], shared + noise[1])
    assert result.value == pytest.approx(0.2, abs=0.03)  # what is shared alone has a spread of 0.6
    assert result.high - result.low < 0.1  # the unpaired spread of prompts alone would make it 0.4
    assert result.p_value < 0.02  # three seeds: Student's t with two degrees of freedom
    assert (result.seeds, result.prompts) == (3, 100)
    reverse = paired_difference(shared + noise[1], shared + 0.2 + noise[0])
    assert reverse.value == pytest.approx(-result.value)


def test_equal_methods_have_p_one_and_unequal_shapes_are_refused():
    same = rng(9).random((2, 20))
    assert paired_difference(same, same).p_value == 1.0
    with pytest.raises(ValueError, match="same seeds and prompts"):
        paired_difference(same, same[:, :5])


def test_holm_by_hand():
    # Sorted: .01 * 4 = .04, .02 * 3 = .06, .03 * 2 = .06, .04 * 1 = .04 -> not below its predecessor: .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]).size == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_step_by_step_and_keeps_the_order(values):
    adjusted, order = holm(values), np.argsort(values, kind="stable")
    assert (adjusted >= np.array(values)).all()
    assert (np.diff(adjusted[order]) >= 0).all()
    for alpha in (0.01, 0.05, 0.3):
        rejected = np.zeros(len(values), dtype=bool)
        for step, index in enumerate(order):  # the procedure as Holm states it
            if values[index] * (len(values) - step) > alpha:
                break
            rejected[index] = True
        assert (rejected == (adjusted <= alpha)).all()


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


def test_best_of_trials_takes_noise_out_of_the_drawn_scores():
    # Each trial answers two prompts, score + d and score - d, so noise adds the variance of d to that of scores:
    # d = 0, 0.6, 1.2 adds 0.36 to the 1 of scores 1, 2, 3. True scores have 0.64: pulled by 0.8 to 1.2, 2, 2.8.
    outcomes = np.array([[0.0, 0.0], [1.0, 1.0], [2.6, 1.4], [4.2, 1.8]])
    found = best_of_trials(outcomes, rng())
    assert found.value == pytest.approx(expected_best(np.array([0, 1.2, 2, 2.8])))
    assert found.value == pytest.approx([0, 2, (2 + 2.8 + 2.8) / 3, 2.8])
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()


def test_best_of_trials_without_noise_is_an_interval_for_normal_settings():
    # Beside a default that always loses, the best of k draws is mean + c spread, c the mean of the best of k standard
    # normals: 0, 1 / sqrt(pi), 3 / (2 sqrt(pi)). Its limits are x + s / sqrt(m) times quantiles of a noncentral t (Owen
    # 1968, Technometrics 10:445); for k = 1 that is Student's t interval of the drawn scores.
    scores = np.array([-99.0, 0.2, 0.5, 0.3, 0.8])
    found = best_of_trials(np.tile(scores[:, None], (1, 30)), rng(), replicates=200_000)
    assert found.value == pytest.approx(expected_best(scores))
    assert (found.low[0], found.high[0]) == (-99.0, -99.0), "no spread of prompts, and the first trial is no draw"
    drawn = scores[1:]
    for k, c in enumerate([0, np.pi**-0.5, 1.5 * np.pi**-0.5], start=1):
        shift = drawn.std(ddof=1) / 2 * nct.ppf([0.025, 0.975], 3, 2 * c)
        assert found.low[k] == pytest.approx(drawn.mean() + shift[0], abs=0.01)
        assert found.high[k] == pytest.approx(drawn.mean() + shift[1], abs=0.03)


@pytest.mark.parametrize("bounded", [True, False])
def test_the_first_trial_has_the_interval_of_a_mean_and_two_tell_nothing_of_a_spread(bounded):
    outcomes = rng(6).binomial(1, [[0.4], [0.3], [0.7], [0.5]], size=(4, 100)).astype(float)
    first = estimate(outcomes[:1], bounded=bounded)
    found = best_of_trials(outcomes, rng(), bounded=bounded)
    assert (found.low[0], found.high[0]) == (first.low, first.high)
    two = best_of_trials(outcomes[:2], rng(), bounded=bounded)
    assert two.value == pytest.approx(expected_best(outcomes[:2].mean(axis=1)))
    assert two.low.tolist() == [first.low, first.low]
    assert two.high.tolist() == [first.high, 1.0 if bounded else np.inf]
    one = best_of_trials(outcomes[:1], rng(), bounded=bounded)
    assert (one.value, one.low, one.high) == (outcomes[0].mean(), first.low, first.high)


def test_best_of_trials_within_bounds_stays_there():
    outcomes = rng(7).binomial(1, [[0.9], [0.99], [0.1]], size=(3, 20)).astype(float)
    found = best_of_trials(outcomes, rng(), bounded=True)
    assert found.low.min() >= 0
    assert found.high.tolist()[1:] == [1.0, 1.0], "two draws tell little of their spread"
    assert best_of_trials(outcomes, rng()).high[2] > 2


def test_best_of_trials_is_not_taken_in_by_the_luckiest_of_equal_settings():
    # In standard errors of a score: the best of eight that do not differ is 0, that of their scores about 1.4.
    draw, naive, value, held = rng(8), [], [], 0
    for _ in range(300):
        outcomes = 8 * draw.normal(size=(8, 64))
        found = best_of_trials(outcomes, draw, replicates=500)
        naive.append(expected_best(outcomes.mean(axis=1))[-1])
        value.append(found.value[-1])
        held += found.low[-1] <= 0 <= found.high[-1]
    assert np.mean(naive) == pytest.approx(1.42, abs=0.12)
    assert np.mean(value) < np.mean(naive) / 1.8
    assert held > 0.9 * 300


def test_best_of_trials_counts_a_trial_without_outcomes_as_the_worst():
    outcomes = np.array([[0.5] * 4, [np.nan] * 4, [0.75] * 4])
    assert best_of_trials(outcomes, rng()).value == pytest.approx([0.5, (0.5 + 0.75) / 2, 0.75])
    outcomes = np.array([[np.nan] * 4, [0.5] * 4, [0.75] * 4])
    assert best_of_trials(outcomes, rng()).value == pytest.approx([0.5, (0.5 + 0.75) / 2, 0.75])
    with pytest.raises(ValueError, match="at least one outcome"):
        best_of_trials(np.full((2, 3), np.nan), rng())


def test_best_of_trials_with_missing_outcomes_is_that_of_those_there_are():
    outcomes = rng(9).normal(size=(4, 40))
    padded = np.concatenate([outcomes, np.full((4, 1), np.nan)], axis=1)
    assert best_of_trials(padded, rng()).value == pytest.approx(best_of_trials(outcomes, rng()).value, abs=0.01)
