"""Claims: the tests agree with a computation by hand, and the verdicts follow from planted counts alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from scipy import stats

from analysis import statistics
from analysis.claims import CONTRADICTED, HOLDS, NO_DIFFERENCE, UNTOLD, Runs, Test, claims, contrast, make
from analysis.evidence import Evidence
from analysis.registry import NoDataError
from analysis.statistics import Difference
from kto_bench.published import Published

Test.__test__ = False  # no test of pytest's


@pytest.fixture(scope="module")
def study():
    return Published.load("kto_paper", ROOT / "results")


@pytest.fixture(scope="module")
def found(study):
    return claims(Evidence(published=study))


# papers' counts, computed by hand beforehand: difference in points, for some p and Holm's adjusted p
BY_HAND = {
    (("base", "kto"), ("base", "dpo")): [0.0, -1.6, 1.2, -1.2, 10.2, 5.3, 12.9],
    (("sft", "kto"), ("sft", "dpo")): [-3.9, 0.2, 0.0, -4.5, 5.3, 2.0, 3.5],
    (("base", "kto"), ("sft", "dpo")): [-7.8, -11.3, -11.5, -14.6, -1.8, -2.9, 4.7],
    (("base", "kto"), ("sft", "kto")): [-3.9, -11.5, -11.5, -10.2, -7.0, -4.9, 1.2],
    (("sft", "dpo"), ("sft", "ppo")): [-1.8, -3.7, -3.5, 3.7, 1.4, 1.6, 11.1],
    (("sft", "dpo"), ("sft", "none")): [-3.7, -2.1, -3.3, 3.7, 6.8, 12.7, 19.9],
    (("sft", "kto"), ("sft", "none")): [-7.6, -2.0, -3.3, -0.8, 12.1, 14.6, 23.4],
    (("sft", "dpo"), ("sft", "slic")): [3.7, 4.7, 2.7, 4.3, 4.7, 9.8, 24.2],
}
# index of the model: p, and Holm's adjusted p, as printed
P_BY_HAND = {
    (("base", "kto"), ("base", "dpo")): {4: ("7e-04", "0.004"), 5: ("0.089", ""), 6: ("3e-05", "2e-04")},
    (("sft", "kto"), ("sft", "dpo")): {0: ("0.032", "0.22"), 3: ("0.075", ""), 4: ("0.090", ""), 6: ("0.24", "")},
    (("base", "kto"), ("sft", "dpo")): {6: ("0.12", "")},
    (("base", "kto"), ("sft", "kto")): {4: ("0.024", "0.071"), 5: ("0.12", "")},
    (("sft", "dpo"), ("sft", "ppo")): {6: ("", "0.002")},
    (("sft", "dpo"), ("sft", "none")): {4: ("0.025", "0.13")},
    (("sft", "kto"), ("sft", "none")): {4: ("", "4e-04")},
    (("sft", "dpo"), ("sft", "slic")): {5: ("", "0.01")},
}
SIGNIFICANT = {
    (("base", "kto"), ("base", "dpo")): {4, 6},
    (("sft", "kto"), ("sft", "dpo")): set(),
    (("base", "kto"), ("sft", "dpo")): {0, 1, 2, 3},
    (("base", "kto"), ("sft", "kto")): {0, 1, 2, 3},
    (("sft", "dpo"), ("sft", "ppo")): {6},
    (("sft", "dpo"), ("sft", "none")): {5, 6},
    (("sft", "kto"), ("sft", "none")): {0, 4, 5, 6},
    (("sft", "dpo"), ("sft", "slic")): {5, 6},
}


def _printed(value, as_it_was):
    """``value`` at the precision at which it was printed."""
    return f"{value:.0e}" if "e" in as_it_was else f"{value:.{len(as_it_was) - 2}f}"


@pytest.mark.parametrize("pair", BY_HAND)
def test_contrasts_are_those_computed_by_hand(study, pair):
    tests = contrast(Runs(study.judged), *pair, {})
    assert [100 * test.gap.value for test in tests] == pytest.approx(BY_HAND[pair], abs=0.051)
    assert {index for index, test in enumerate(tests) if test.p_holm < 0.05} == SIGNIFICANT[pair]
    for index, (p, p_holm) in P_BY_HAND[pair].items():
        for found, printed in ((tests[index].gap.p_value, p), (tests[index].p_holm, p_holm)):
            assert not printed or _printed(found, printed) == printed


def _tests(found, key):
    return {(test.contrast, test.where): test for claim in found if claim.key == key for test in claim.tests}


def test_imbalance_and_one_completion_are_those_computed_by_hand(study, found):
    imbalance = _tests(found, "i")
    without = {kept: imbalance["KTO − DPO, both without SFT", f"{kept}% desirable kept"].gap for kept in (10, 25)}
    assert round(100 * without[10].value, 1) == 2.0
    assert round(without[10].p_value, 2) == 0.58
    assert round(100 * without[25].value, 1) == 9.0
    assert round(without[25].p_value, 3) == 0.013
    after = imbalance["KTO without SFT − SFT+DPO", "10% desirable kept"].gap
    assert (round(100 * after.value, 1), round(after.p_value, 3)) == (-10.0, 0.008)
    whole = imbalance["KTO on part − KTO on all data", "10% desirable kept"].gap
    assert (round(100 * whole.value, 1), round(whole.p_value, 3)) == (-8.2, 0.027)
    one = [test.gap.p_value for test in _tests(found, "j").values()]
    assert [round(p, 2) for p in one] == [0.08, 0.30]
    (people,) = _tests(found, "k").values()
    assert round(people.gap.p_value, 3) == 0.018


def test_verdicts_of_the_paper(found):
    assert [(claim.key, claim.verdict) for claim in found] == [
        ("a", NO_DIFFERENCE), ("a", NO_DIFFERENCE), ("b", NO_DIFFERENCE), ("b", UNTOLD), ("c", NO_DIFFERENCE),
        ("c", CONTRADICTED), ("d", NO_DIFFERENCE), ("e", NO_DIFFERENCE), ("f", UNTOLD), ("f", HOLDS),
        ("g", NO_DIFFERENCE), ("g", UNTOLD), ("h", HOLDS), ("h", UNTOLD), ("i", UNTOLD), ("i", CONTRADICTED),
        ("i", CONTRADICTED), ("j", UNTOLD), ("k", HOLDS),
    ]  # fmt: skip


def test_kto_rambles_less_than_dpo_on_llamas_only(found):
    lengths = [test for claim in found if claim.key == "h" and "ramble" in claim.words for test in claim.tests]
    assert {test.where for test in lengths if test.verdict == HOLDS} == {"Llama-7B", "Llama-13B", "Llama-30B"}
    assert {test.where for test in lengths if test.verdict == UNTOLD} == {
        test.where for test in lengths if "Pythia" in test.where
    }


def test_verdicts_follow_the_counts(study):
    """The same claims, with the counts of KTO and DPO without SFT exchanged."""
    table = study.judged.copy()
    base = (table["experiment"] == "scale") & (table["start"] == "base")
    kto, dpo = (table.index[base & (table["loss"] == loss)] for loss in ("kto", "dpo"))
    table.loc[[*kto, *dpo], "wins"] = table.loc[[*dpo, *kto], "wins"].to_numpy()
    changed = Published(study.name, study.folder, "", "", [], [], table, study.scores)
    verdicts = [claim.verdict for claim in claims(Evidence(published=changed)) if claim.key == "f"]
    assert verdicts == [CONTRADICTED, CONTRADICTED]


@pytest.mark.parametrize(
    ("expected", "verdicts"),
    [
        ("more", (HOLDS, UNTOLD, CONTRADICTED)), ("less", (CONTRADICTED, UNTOLD, HOLDS)),
        ("at least", (HOLDS, NO_DIFFERENCE, CONTRADICTED)), ("at most", (CONTRADICTED, NO_DIFFERENCE, HOLDS)),
        ("same", (CONTRADICTED, NO_DIFFERENCE, CONTRADICTED)), ("", ("", "", "")),
    ],
)  # fmt: skip
def test_rules(expected, verdicts):
    gaps = [(0.2, 0.001), (0.02, 0.5), (-0.2, 0.001)]
    tests = [Test("x", "y", Difference(v, v - 1, v + 1, p, 1, 9), expected, p_holm=p) for v, p in gaps]
    assert tuple(test.verdict for test in tests) == verdicts


def test_the_table_has_a_row_for_each_test_that_is_claimed(study, found):
    sheet = make(Evidence(published=study))
    assert len(sheet.numbers) == len(sheet.display) == sum(bool(t.expected) for c in found for t in c.tests)
    assert set(sheet.numbers["verdict"]) == {HOLDS, NO_DIFFERENCE, UNTOLD, CONTRADICTED}


def test_another_study_has_no_claims():
    evidence = Evidence(published=Published.load("simpo_paper", ROOT / "results"))
    assert claims(evidence) == []
    with pytest.raises(NoDataError, match="not the KTO paper's"):
        make(evidence)


def test_newcombes_interval_is_his_own_example():
    """Newcombe (1998), Table II, case (a), method 10: 56/70 - 48/80."""
    found = statistics.two_proportions(56, 70, 48, 80)
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts)
def test_two_proportions_are_scipys_and_antisymmetric(first, second):
    found = statistics.two_proportions(*first, *second)
    back = statistics.two_proportions(*second, *first)
    assert found.low <= found.value <= found.high
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert found.low >= -1
    assert found.high <= 1
    table = np.array([[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]])
    if (table.sum(axis=0) > 0).all():
        assert found.p_value == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, abs=1e-9)
    else:
        assert found.p_value == 1


@given(st.lists(st.floats(0, 50), min_size=2, max_size=30))
def test_no_mean_has_a_larger_error_than_the_largest(values):
    error = np.std(values) / math.sqrt(len(values))
    assert error <= statistics.largest_error(float(np.mean(values)), len(values), 50.0 + 1e-9) + 1e-6


def test_one_proportion_inverts_its_test():
    found = statistics.one_proportion(300, 512)
    at_limit = statistics.one_proportion(300, 512, expected=0.5 + found.low)
    assert at_limit.p_value == pytest.approx(0.05)
