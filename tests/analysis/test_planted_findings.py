"""The summary's sentences on planted truths: a difference, none, one too small to be seen, and families of nothing."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis import comparisons
from analysis.comparisons import LOSSES, WIN_RATE, Outcome, questions
from analysis.findings import LISTED, NO_EVIDENCE, UNDERPOWERED, _compare, _once

LOSS_NAMES = ("dpo", "kto", "simpo")


def outcome(rates, seeds, prompts, rng, seed_spread=0.02):
    """Wins of losses from one start: prompts differ, the same for all losses; each seed of each loss is its own."""
    difficulty = rng.normal(0, 0.15, prompts)
    rows = []
    for method, rate in rates.items():
        for seed in range(seeds):
            chance = np.clip(rate + difficulty + rng.normal(0, seed_spread), 0, 1)
            won = (rng.random(prompts) < chance).astype(float)
            rows.append(
                pd.DataFrame(
                    {
                        "setting": "", "start": "sft", "method": method, "seed": seed,
                        "prompt_id": [f"p{i}" for i in range(prompts)], "preference": won,
                    }
                )
            )  # fmt: skip
    return Outcome(WIN_RATE, pd.concat(rows, ignore_index=True), "preference", "prompt_id", " points", 100, 1)


def losses(measured):
    return next(question for question in questions(measured) if question.name == LOSSES)


def told(rates, seeds, prompts, seed=0):
    return _compare(losses(outcome(rates, seeds, prompts, np.random.default_rng(seed))))


def test_a_true_large_difference_is_found_and_named_the_right_way_round():
    finding = told({"dpo": 0.35, "kto": 0.65}, seeds=5, prompts=256)
    (sentence,) = finding.sentences
    assert sentence.startswith("From the SFT start, KTO wins more often than DPO, by ")
    lead, low, high = (
        float(one) for one in re.search(r"by ([\d.]+) .*?interval ([\d.]+) to ([\d.]+)", sentence).groups()
    )
    assert low < 30 < high
    assert low < lead < high
    assert "5 seeds × 256 prompts" in sentence
    assert not finding.unclear


@pytest.mark.parametrize("prompts", [24, 400])
def test_none_is_never_called_equality_and_what_could_have_been_seen_is_said(prompts):
    finding = told({"dpo": 0.5, "kto": 0.5}, seeds=5, prompts=prompts)
    assert finding.sentences == []
    assert "no evidence of equality" in finding.introduction
    assert "underpowered for anything smaller" in finding.introduction
    everything = " ".join([finding.introduction, *finding.unclear])
    assert not re.search(r"\b(same|equal|equally|no difference between|as good as|equivalent)\b", everything)
    smallest = float(re.search(r"only if it is at least ([\d.]+) points", finding.introduction).group(1))
    assert (smallest > 15) if prompts == 24 else (smallest < 15)


def test_of_very_many_comparisons_that_are_not_clear_the_largest_are_listed():
    finding = told({f"loss{number}": 0.5 for number in range(21)}, seeds=2, prompts=16)  # 210 comparisons
    assert finding.sentences == []
    assert len(finding.unclear) == LISTED
    assert f"The {LISTED} largest of 210 are listed" in finding.introduction


def test_an_underpowered_truth_is_not_found_and_the_plan_for_it_is_told():
    """A true difference of 5 points at 3 seeds and 32 prompts."""
    finding = told({"dpo": 0.47, "kto": 0.52}, seeds=3, prompts=32)
    assert finding.sentences == []
    assert float(re.search(r"at least ([\d.]+) points", finding.introduction).group(1)) > 5
    assert "To find a true difference of that size" in finding.unclear[0]


def test_where_even_certain_wins_would_not_be_found_no_number_above_100_is_given():
    rng = np.random.default_rng(1)
    measured = outcome(dict.fromkeys(LOSS_NAMES, 0.5), 2, 16, rng, seed_spread=0.2)
    finding = _compare(losses(measured))
    for points in re.findall(r"at least ([\d.]+)", finding.introduction):
        assert float(points) < 100


def test_what_holds_for_all_questions_is_said_once():
    rng = np.random.default_rng(1)
    finding = _compare(losses(outcome(dict.fromkeys(LOSS_NAMES, 0.5), 2, 16, rng, seed_spread=0.4)))
    first, second = _once([finding, finding])
    assert first.introduction == finding.introduction
    for sentence in (NO_EVIDENCE, UNDERPOWERED):
        assert sentence in first.introduction
        assert sentence not in second.introduction
    assert second.introduction.startswith("Cannot be told apart with n = ")
    assert second.unclear == finding.unclear


def test_the_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(2)
    (row,) = losses(outcome({"dpo": 0.5, "kto": 0.5}, 5, 200, rng)).rows.to_dict("records")
    effect = comparisons.detectable(row, 1)
    found = 0
    for _ in range(60):
        found += (
            losses(outcome({"dpo": 0.5 - effect / 2, "kto": 0.5 + effect / 2}, 5, 200, rng)).rows["p_holm"] < 0.05
        ).sum()
    # binomial SD 5%, and the plan is made from one study whose variances are themselves estimates
    assert 0.55 < found / 60 < 0.97


def test_families_of_no_difference_claim_one_in_a_twentieth_of_cases_at_most():
    rng = np.random.default_rng(3)
    families, false = 100, 0
    for _ in range(families):
        rows = losses(outcome(dict.fromkeys(LOSS_NAMES, 0.5), 3, 64, rng)).rows
        assert len(rows) == 3
        false += bool((rows["p_holm"] < comparisons.ALPHA).any())
    assert false / families <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / families)
