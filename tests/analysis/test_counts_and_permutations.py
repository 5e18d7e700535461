"""Tests of published counts and of paired outcomes, against other implementations and the papers' own numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test as scipy_permutation_test
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from analysis.statistics import fisher_exact, mcnemar, permutation_test, two_proportions


def test_two_proportions_on_the_papers_counts():
    # KTO's data imbalance: .328 (84 of 256) against DPO without SFT (158 of 512): +2.0, p = .58.
    result = two_proportions(84, 256, 158, 512)
    assert result.value == pytest.approx(0.0195, abs=1e-4)
    assert result.p_value == pytest.approx(0.58, abs=0.005)


@pytest.mark.parametrize("counts", [(84, 256, 158, 512), (3, 20, 9, 25), (0, 10, 5, 10)])
def test_two_proportions_agree_with_statsmodels(counts):
    first, n_first, second, n_second = counts
    result = two_proportions(*counts)
    assert result.p_value == pytest.approx(proportions_ztest([first, second], [n_first, n_second])[1])
    expected = confint_proportions_2indep(first, n_first, second, n_second, method="newcomb")
    assert (result.low, result.high) == pytest.approx(expected, abs=1e-9)


def test_equal_certainties_are_no_difference():
    assert two_proportions(10, 10, 20, 20).p_value == 1.0


def test_fisher_by_hand():
    # The lady tasting tea: 3 of 4 right. P = (16 + 1) / 70 on one side, twice that on both.
    assert fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)
    with pytest.raises(ValueError, match="whole counts"):
        fisher_exact(3.5, 4, 1, 4)


def test_mcnemar_by_hand_and_against_statsmodels():
    first = np.array([1.0] * 9 + [0] + [1] * 5 + [0] * 4 + [np.nan])
    second = np.array([0.0] * 9 + [1] + [1] * 5 + [0] * 4 + [1])
    # 10 prompts differ, 1 is lost: 2 (1 + 10) / 2^10; mid-p takes off the probability of exactly 1.
    assert mcnemar(first, second) == pytest.approx(22 / 1024)
    assert mcnemar(first, second, mid_p=True) == pytest.approx(12 / 1024)
    assert mcnemar(first, second) == pytest.approx(statsmodels_mcnemar([[5, 9], [1, 4]], exact=True).pvalue)
    assert mcnemar(first, first) == 1.0
    with pytest.raises(ValueError, match=r"got 0\.5"):
        mcnemar(np.array([0.5, 1]), np.array([1.0, 0]))
    with pytest.raises(ValueError, match="same prompts"):
        mcnemar(first, second[:3])


def test_permutation_test_by_hand():
    # Of 2^3 flips of (1, 2, 3), only +++ and --- reach 6.
    assert permutation_test(np.array([[1.0, 2, 3]]), np.random.default_rng(0)) == 2 / 8
    assert permutation_test(np.array([[1.0, 1], [2, 2], [3, 3]]), np.random.default_rng(0), over="seeds") == 2 / 8
    assert permutation_test(np.zeros((1, 5)), np.random.default_rng(0)) == 1.0
    with pytest.raises(ValueError, match="'documents'"):
        permutation_test(np.ones((1, 5)), np.random.default_rng(0), over="documents")


def test_drawn_flips_agree_with_scipy():
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    ours = permutation_test(values[None], np.random.default_rng(2))
    theirs = scipy_permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(3)
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=12))
def test_sign_flips_of_wins_and_losses_are_mcnemars_test(differences):
    values = np.array(differences)
    first, second = (values > 0).astype(float), (values < 0).astype(float)
    assert permutation_test(values[None], np.random.default_rng(0)) == pytest.approx(mcnemar(first, second))
