"""The table of published question sets: our cells with intervals, the leaderboard's rows beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import synthetic

from analysis.question_sets import make
from analysis.registry import NoDataError
from kto_bench.results import Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    for seed, win in ((0, 0.3), (1, 0.4)):
        synthetic.write_run(tmp_path / "s", "kto", "sft", seed, win=win, prompts=4)
    synthetic.write_run(tmp_path / "s", "dpo", "sft", 0, win=0.2, prompts=4)
    return Sweep.load("s", tmp_path)


def test_one_seed_keeps_its_interval_and_several_add_their_spread(sweep):
    rows = make(sweep).numbers.set_index("method")
    assert rows.loc["dpo", ["win rate", "win rate_low", "win rate_high"]].tolist() == pytest.approx([0.2, 0.16, 0.24])
    # variance of a mean over two seeds: that of the prompts, 0.02², and 0.005 / 2 between seeds
    half = 1.96 * math.sqrt(0.02**2 + 0.005 / 2)
    assert rows.loc["kto", "win rate"] == pytest.approx(0.35)
    assert rows.loc["kto", "win rate_high"] == pytest.approx(0.35 + half)
    assert rows.loc["kto", "seeds"] == 2


def test_published_rows_stand_below_ours_and_the_caption_says_how_they_differ(sweep):
    sheet = make(sweep)
    assert sheet.display["Model"].tolist() == ["DPO", "KTO", "alpaca-7b (published)"]
    column = sheet.display["Length-controlled win rate (%)"].tolist()
    assert column[0] == "15.0 [11.0, 19.0]"
    assert column[2] == "–"  # the leaderboard has none
    assert sheet.display["Win rate (%)"].tolist()[2] == "2.6"
    assert "Ours are not made as the published ones are: a planted <b>." in sheet.caption


def test_sets_of_other_scales_share_a_table_with_a_column_for_each_value(tmp_path):
    synthetic.write_run(tmp_path / "s", "kto", "sft", 0, win=0.3, prompts=4)
    folder = synthetic.write_run(tmp_path / "s", "dpo", "sft", 0, win=0.2, prompts=4)
    scores = json.loads((folder / "scores.json").read_text())
    rating = {"value": 6.25, "standard_error": 0.1, "low": 6.0, "high": 6.5}
    scores["statistics"] = {"set": "MT-Bench", "scale": 1, "values": {"rating": rating}, "notes": []}
    (folder / "scores.json").write_text(json.dumps(scores))
    display = make(Sweep.load("s", tmp_path)).display.set_index("Set")
    assert not {"Win rate", "Rating (%)"} & set(display)
    assert display.loc["MT-Bench", "Rating"] == "6.25 [6.00, 6.50]"
    assert display.loc["MT-Bench", "Win rate (%)"] == "–"
    assert display.loc["AlpacaEval 2", "Rating"].tolist() == ["–", "–"]


def test_a_sweep_without_question_sets_has_no_such_table(tmp_path):
    folder = synthetic.write_run(tmp_path / "s", "kto", "sft", 0, prompts=4)
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps({k: v for k, v in scores.items() if k != "statistics"}))
    with pytest.raises(NoDataError, match="no finished run has statistics"):
        make(Sweep.load("s", tmp_path))
