"""The summary in words says what was planted, and no more."""

import pytest
import synthetic

from analysis.findings import findings
from kto_bench.results import Sweep


@pytest.fixture(scope="module")
def answers(sweep):
    return {finding.question: finding for finding in findings(sweep)}


def test_scope_counts_runs_and_names_the_judge(answers):
    scope = " ".join(answers["What was run?"].sentences)
    assert "53 runs" in scope
    assert "1 failed" in scope
    assert "128 held-out prompts" in scope
    assert "gold_utility" in scope


def test_a_planted_difference_is_stated_with_interval_p_and_n(answers):
    sentences = answers["Which loss wins?"].sentences
    match = [s for s in sentences if s.startswith("From the base start, KTO wins more often than DPO, by ")]
    assert len(match) == 1
    assert "95% interval" in match[0]
    assert "adjusted p" in match[0]
    assert "5 seeds × 128 prompts" in match[0]
    assert not any("DPO wins more often than KTO" in s for s in sentences)


def test_what_was_planted_equal_cannot_be_told_apart(answers):
    finding = answers["Which loss wins?"]
    assert not any("SFT start" in sentence for sentence in finding.sentences)
    assert any(item.startswith("From the SFT start, ") and "KTO" in item and "DPO" in item for item in finding.unclear)
    assert "no evidence of equality" in finding.introduction
    assert len(finding.sentences) + len(finding.unclear) == 12  # 2 starts x 6 pairs of 4 losses


def test_the_start_and_alignment_are_compared(answers):
    start = answers["Does the start matter?"].sentences
    assert any(s.startswith("The SFT start alone wins more often than the base start alone") for s in start)
    assert any("DPO from SFT wins more often than DPO from base" in s for s in start)
    aligned = answers["Does alignment help its start?"].sentences
    assert any("KTO wins more often than the start alone" in s for s in aligned)


def test_cautions_name_capped_completions_and_lost_runs(answers):
    cautions = " ".join(answers["What should be read with care?"].sentences)
    assert "poorly known" not in cautions
    assert "DPO from base: 2" in cautions
    assert "hit the token limit (mean of 5 runs)" in cautions
    assert "3 runs did not finish" in cautions
    assert "KTO" not in cautions


def test_cautions_name_few_seeds(tmp_path):
    for loss in ("kto", "dpo"):
        for seed in range(3):
            synthetic.write_run(tmp_path / "s", loss, "sft", seed)
    cautions = findings(Sweep.load("s", tmp_path))[-1].sentences
    assert cautions[0].startswith("With 3 seeds the variation between seeds is itself poorly known.")
    assert "up to 4.3 standard errors" in cautions[0]  # Student's t with two degrees of freedom


def test_without_judgements_it_says_so(tmp_path):
    synthetic.write_run(tmp_path / "s", "kto", "sft", 0, state="failed")
    found = findings(Sweep.load("s", tmp_path))
    assert found[-1].sentences == ["Cannot be said: no finished run has head-to-head judgements."]


def test_a_single_run_is_compared_with_nothing(tmp_path):
    synthetic.write_run(tmp_path / "s", "kto", "sft", 0)
    found = findings(Sweep.load("s", tmp_path))
    assert [finding.question for finding in found] == ["What was run?", "What should be read with care?"]
    assert "single seed" in found[-1].sentences[0]
