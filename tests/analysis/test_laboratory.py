"""The laboratory's page: planted effects are found, planted absences are not, and what is missing is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

from analysis.laboratory import dose
from analysis.laboratory.__main__ import main
from analysis.laboratory.arms import UTILITY, WIN_RATE, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.page import markdown
from analysis.laboratory.prediction import Expected, verdict
from analysis.laboratory.question import questions
from kto_bench.results import RecordError, Sweep

FACTORS = {"loss": "loss.name", "noise": "feedback.label_noise"}
# Win rates by loss and share of wrong labels: wrong labels cost DPO much and KTO nothing; SimPO is as DPO is.
TRUTH = {("dpo", 0.0): 0.75, ("dpo", 0.3): 0.25, ("kto", 0.0): 0.75, ("kto", 0.3): 0.75, ("ipo", 0.0): 0.7}
TRUTH |= {("ipo", 0.3): 0.7, ("simpo", 0.0): 0.75, ("simpo", 0.3): 0.25}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a planted sweep, 4 seeds by 128 prompts."""
    folder = tmp_path_factory.mktemp("results")
    for (loss, noise), win in TRUTH.items():
        for seed in range(4):
            config: dict[str, Any] = {"feedback": {"label_noise": noise}, "loss": {"name": loss, "beta": 0.1}}
            hash_ = f"{loss}{noise:g}"
            write_run(folder / "laboratory_noise", loss, "sft", seed, win, prompts=128, hash_=hash_, config=config)
    return folder


@pytest.fixture(scope="module")
def arms(results: Path) -> Arms:
    return Arms(Sweep.load("laboratory_noise", results), FACTORS)


def test_a_contrast_is_the_mean_of_paired_differences(arms: Arms) -> None:
    first, second = ({"loss": loss, "noise": 0.3} for loss in ("kto", "dpo"))
    found = arms.contrast("x", WIN_RATE, [first], [second])
    by_hand = arms.matrix(WIN_RATE, first).to_numpy().mean() - arms.matrix(WIN_RATE, second).to_numpy().mean()
    assert found.value == pytest.approx(by_hand)
    assert (found.seeds, found.prompts) == (4, 128)
    assert found.low < 0.45 < found.high  # a tenth are ties


def test_a_difference_of_differences_is_what_it_says(arms: Arms) -> None:
    """DPO loses 0.5 more through wrong labels than KTO, and SimPO as much as DPO."""
    cost = {loss: [{"loss": loss, "noise": noise} for noise in (0.0, 0.3)] for loss in ("dpo", "kto", "simpo")}
    more = arms.contrast("x", WIN_RATE, [cost["dpo"][0], cost["kto"][1]], [cost["dpo"][1], cost["kto"][0]])
    same = arms.contrast("y", WIN_RATE, [cost["dpo"][0], cost["simpo"][1]], [cost["dpo"][1], cost["simpo"][0]])
    assert more.low < 0.45 < more.high
    assert more.p_value < 0.01
    assert same.p_value > 0.05


def test_an_arm_pools_over_what_it_does_not_name(arms: Arms) -> None:
    pooled = arms.matrix(UTILITY, {"loss": "dpo"})
    parts = [arms.matrix(UTILITY, {"loss": "dpo", "noise": noise}) for noise in (0.0, 0.3)]
    assert pooled.to_numpy() == pytest.approx((parts[0].to_numpy() + parts[1].to_numpy()) / 2)


def test_a_derived_factor_can_choose_an_arm(results: Path) -> None:
    arms = Arms(Sweep.load("laboratory_noise", results), FACTORS)
    arms.derive("clean", lambda row: row["noise"] == 0)
    assert arms.select({"clean": True, "loss": "kto"})["noise"].unique().tolist() == [0.0]


def test_sentences_say_what_stands_and_what_could_have_been_found(arms: Arms) -> None:
    family = Family(arms, "Losses with wrong labels")
    wrong = {loss: {"loss": loss, "noise": 0.3} for loss in ("kto", "dpo", "simpo")}
    family.compare(WIN_RATE, wrong["kto"], wrong["dpo"], "KTO", "DPO")
    family.compare(WIN_RATE, wrong["dpo"], wrong["simpo"], "DPO", "SimPO")
    stands, open_ = (finding.sentence for finding in family.findings)
    assert stands.startswith("KTO has higher win rate than DPO: +")
    assert "95% interval" in stands
    assert open_.startswith("DPO and SimPO cannot be told apart in win rate: ")
    assert "would be found by 4 of 5 such studies" in open_
    assert re.search(r"by 4 of 5 with \d[\d,]* seeds\.$|with no number of seeds\.$", open_)
    assert family.standing == 1
    assert [contrast.p_holm >= contrast.p_value for contrast in family.contrasts] == [True, True]


@pytest.mark.parametrize(
    ("expected", "value", "stands", "said"),
    [
        ("higher", 0.1, True, "as predicted"),
        ("higher", -0.1, True, "against the prediction"),
        ("lower", -0.1, True, "as predicted"),
        ("lower", 0.1, False, "not shown"),
        ("equal", 0.1, False, "not contradicted"),
        ("equal", 0.1, True, "against the prediction"),
    ],
)
def test_verdicts(expected: Expected, value: float, stands: bool, said: str) -> None:
    assert verdict(expected, value, stands) == said


def test_a_sentence_ends_with_what_was_predicted(arms: Arms) -> None:
    family = Family(arms, "Losses with wrong labels")
    wrong = {loss: {"loss": loss, "noise": 0.3} for loss in ("kto", "dpo", "simpo")}
    family.compare(WIN_RATE, wrong["kto"], wrong["dpo"], "KTO", "DPO", "lower")
    family.compare(WIN_RATE, wrong["dpo"], wrong["simpo"], "DPO", "SimPO", "equal")
    family.compare(WIN_RATE, wrong["simpo"], wrong["dpo"], "SimPO", "DPO", "higher")
    family.compare(WIN_RATE, wrong["kto"], wrong["simpo"], "KTO", "SimPO")
    against, equal, not_shown, nothing = (finding.sentence for finding in family.findings)
    assert against.endswith(" *Against the prediction.*")
    assert equal.endswith(" *Predicted to be equal, which is not contradicted.*")
    assert not_shown.endswith(" *Predicted, but not shown.*")
    assert nothing.endswith(").")


def test_a_larger_family_needs_more_to_find_the_same(arms: Arms) -> None:
    sides = [{"loss": "kto", "noise": 0.0}], [{"loss": "ipo", "noise": 0.0}]
    alone, among = (arms.contrast("x", WIN_RATE, *sides, comparisons=size) for size in (1, 10))
    assert among.value == alone.value
    assert among.detectable > alone.detectable
    assert alone.needed is not None
    assert among.needed is None or among.needed > alone.needed


@pytest.mark.parametrize(
    ("arm", "message"), [({"loss": "orpo"}, "there are dpo, ipo, kto, simpo"), ({"noise": 0.1}, "0.3")]
)
def test_an_arm_that_is_not_there_is_an_error_that_names_what_is(arms: Arms, arm: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        arms.select(arm)


def test_a_factor_that_no_configuration_has_is_an_error(results: Path) -> None:
    with pytest.raises(RecordError, match=r"no configuration has feedback\.nois"):
        Arms(Sweep.load("laboratory_noise", results), {"noise": "feedback.nois"})


def test_the_page_says_what_was_planted(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "findings.md"
    assert main(["--only", "noise", "--results", str(results), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "DPO on clean feedback has higher gold utility than DPO with 30% of the labels turned round: +" in text
    assert "KTO on clean feedback and KTO with 30% of the labels turned round cannot be told apart" in text
    assert "What wrong labels cost is more for DPO than for KTO: by +" in text
    assert "Of 2 predictions: " in text
    assert "| **as predicted** |" in text
    assert "kto-bench -m +sweeps=laboratory/noise" in text
    assert "32 done; 4 seeds" in text
    assert (page.parent / "findings" / "laboratory_noise.png").stat().st_size > 10_000
    before = page.read_bytes()
    assert main(["--only", "noise", "--results", str(results), "--out", str(page)]) == 0
    assert page.read_bytes() == before, "the same records give the same page"


def test_a_sweep_that_is_missing_is_named(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "imbalance", "--results", str(results), "--out", str(tmp_path / "x.md")]
    assert main(arguments) == 1
    assert "laboratory_imbalance" in capsys.readouterr().err
    assert not (tmp_path / "x.md").exists()


def test_a_question_without_records_is_on_the_page_as_not_yet_run(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "findings.md"
    assert main(["--results", str(results), "--out", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("*Not yet run.*") == len(questions()) - 1


def test_the_committed_page_is_what_the_committed_records_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m analysis.laboratory`` makes docs/findings.md; see it in ``git diff`` after a change."""
    from places import ROOT

    monkeypatch.chdir(ROOT)
    page = tmp_path / "findings.md"
    assert main(["--results", str(reference_only(tmp_path)), "--out", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    drawn = {path.name for path in (tmp_path / "findings").glob("*.png")}
    assert drawn == {path.name for path in (ROOT / "docs" / "findings").glob("*.png")}


def reference_only(folder: Path) -> Path:
    """A folder of results that holds the committed ones alone, whatever has been run here."""
    from places import ROOT

    results = folder / "results"
    results.mkdir()
    (results / "reference").symlink_to(ROOT / "results" / "reference")
    return results


def test_every_question_has_a_sweep_of_its_own() -> None:
    from places import ROOT

    asked = questions()
    files = {path.stem for path in (ROOT / "sweeps" / "laboratory").glob("*.yaml")}
    assert {question.sweep.removeprefix("laboratory_") for question in asked} == files
    assert len({question.order for question in asked}) == len(asked)


def test_a_line_of_a_loss_looks_as_everywhere() -> None:
    line = dose.Line.of_loss("kto", "base")
    assert (line.arm, line.colour) == ({"loss": "kto", "start": "base"}, "#D55E00")
    assert line.name == "KTO, from base"


def test_a_table_survives_markdown() -> None:
    import pandas as pd

    assert markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |"
