"""Figures and tables of the implied reward and of gold and perceived utility, against sweeps whose truth is planted."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import synthetic

from analysis import (
    choices_table,
    mislabelled_table,
    over_optimisation,
    reliability,
    reward_bias_table,
    reward_model_table,
    utility_gap,
)
from analysis.implied_rewards import examples, probabilities
from analysis.registry import NoDataError
from kto_bench.results import Sweep


def load(tmp_path, **rewards):
    for loss in ("none", "dpo"):
        for seed in (0, 1):
            synthetic.write_run(tmp_path / "s", loss, "sft", seed, rewards=rewards)
    return Sweep.load("s", tmp_path)


def side(reward, utility=0.0, tokens=5):
    return {"reward": reward, "log_prob": -1.0, "tokens": tokens, "scores": {"utility": utility}}


def write(tmp_path, rows, declared=True, point=None):
    folder = synthetic.write_run(tmp_path / "s", "dpo", "sft", 0)
    synthetic.write_lines(folder / "implied_rewards.jsonl", rows)
    packed = gzip.compress((folder / "implied_rewards.jsonl").read_bytes())
    (folder / "implied_rewards.jsonl.gz").write_bytes(packed)
    scores = json.loads((folder / "scores.json").read_text())
    scores["implied_reward"] = {"declared": declared, "reference_point": point}
    synthetic.write_json(folder / "scores.json", scores)
    return Sweep.load("s", tmp_path)


def test_margins_of_pairs_and_of_single_completions(tmp_path):
    pairs = [
        {"id": "a", "split": "heldout", "mislabelled": False, "chosen": side(2.0, 1.0), "rejected": side(0.5, 0.0)},
        {"id": "b", "split": "train", "mislabelled": False, "chosen": side(1.0, 0.0), "rejected": side(1.0, 2.0)},
        {"id": "c", "split": "train", "mislabelled": True, "chosen": side(0.0, 1.0), "rejected": side(1.0, 1.0)},
    ]
    thumbs = [
        {"id": "d", "split": "heldout", "mislabelled": False, "label": True, "completion": side(0.25)},
        {"id": "e", "split": "heldout", "mislabelled": False, "label": False, "completion": side(0.0)},
    ]
    found = examples(write(tmp_path, [*pairs, *thumbs], point=0.75)).set_index("example")
    assert found.loc[list("abcde"), "margin"].tolist() == [1.5, 0.0, -1.0, -0.5, -0.75]
    assert found.loc[list("abcde"), "right"].tolist() == [1.0, 0.5, 0.0, 0.0, 1.0]
    assert found.loc[list("abc"), "against_gold"].tolist() == [False, True, None]
    rows = probabilities(found.reset_index().query("split == 'heldout' and pair")).iloc[0]
    assert rows["own"] == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert rows["brier_own"] == pytest.approx((1 - rows["own"]) ** 2)


def test_a_reward_that_no_loss_states_has_no_scale_of_its_own(tmp_path):
    thumbs = [
        {"id": str(i), "split": "heldout", "mislabelled": False, "label": i > 1, "completion": side(float(i))}
        for i in range(4)
    ]
    rows = examples(write(tmp_path, thumbs, declared=False))
    assert rows["margin"].tolist() == [-1.5, -0.5, 0.5, 1.5], "measured from the mean"
    assert probabilities(rows)["own"].isna().all()


def test_the_planted_scale_is_found_and_too_sure_a_reward_is_seen(tmp_path):
    table = reward_model_table.classification(load(tmp_path, n=600, length_bias=0.0, temperature=4.0)).set_index(
        "method"
    )
    dpo = table.loc["dpo"]
    assert dpo["scale"] == pytest.approx(0.25, rel=0.25), "the reward is 4 times what decides on labels"
    assert dpo["ece_fitted"] < 0.05 < dpo["ece_own_low"]
    assert dpo["brier_fitted_high"] < dpo["brier_own"]
    assert dpo["accuracy_low"] < 0.78 < dpo["accuracy_high"] + 0.08
    assert np.isnan(table.loc["none", "ece_own"])
    assert not np.isnan(table.loc["none", "ece_fitted"])
    assert dpo["bins"] == 10


def test_thumbs_are_classified_by_their_distance_from_the_reference_point(tmp_path):
    table = reward_model_table.classification(load(tmp_path, n=600, thumbs=True, temperature=1.0, length_bias=0.0))
    dpo = table.set_index("method").loc["dpo"]
    assert not dpo["pair"]
    assert dpo["ece_own"] < 0.06
    assert dpo["scale"] == pytest.approx(1.0, rel=0.25)


def test_what_is_learnt_of_wrong_labels(tmp_path):
    shares = {}
    for memorised in (0.0, 0.8):
        found = mislabelled_table.learnt(load(tmp_path / str(memorised), n=400, memorised=memorised))
        (row,) = found.to_dict("records")
        assert row["method"] == "dpo", "loss none was trained on nothing"
        shares[memorised] = row
        assert row["excess"] == pytest.approx(row["turned"] - row["as_given"])
        assert row["excess_low"] < row["excess"] < row["excess_high"]
        assert row["as_given_n"] == 400
    assert shares[0.0]["turned"] < 0.4 < 0.6 < shares[0.0]["as_given"]
    assert shares[0.8]["turned"] == pytest.approx(0.8 + 0.2 * shares[0.0]["turned"], abs=0.05)
    assert shares[0.0]["excess_high"] < 0 < shares[0.8]["excess_low"]
    assert shares[0.0]["with_gold"] > 0.85 > 0.15 > shares[0.0]["against_gold"]


def test_a_taste_for_length_shows_given_utility_and_none_for_style(tmp_path):
    sweep = load(tmp_path, n=400, temperature=2.0, length_bias=0.5)
    table = reward_bias_table.correlations(sweep).set_index(["method", "feature"])
    length, polite = table.loc[("dpo", "tokens")], table.loc[("dpo", "polite")]
    assert length["given"] > 0.95, "utility taken out, length is all that is left of the reward"
    assert length["raw"] == pytest.approx(0.5 / (2.0**2 + 0.5**2) ** 0.5, abs=0.1)
    assert abs(polite["given"]) < 0.15
    assert polite["given_low"] < 0.05
    assert polite["given_high"] > -0.05
    assert set(reward_bias_table.make(sweep).display) >= {"length, given utility", "polite, raw"}


def test_the_gap_is_the_planted_one_and_wrong_answers_that_convince_are_counted(sweep):
    table = utility_gap.measures(sweep)
    assert table["gap"].to_numpy() == pytest.approx(0.25)
    wrong = table[table["correct"] == 0]
    assert table["convincing"].notna().sum() == len(wrong)
    assert table["convincing"].mean() == pytest.approx((wrong["utility"] + 0.25 > 0.6).mean())
    rows = utility_gap.against_start(table)
    gaps = rows[rows["measure"] == "gap"]
    assert gaps["value"].to_numpy() == pytest.approx(0.0, abs=1e-9)
    better = rows[(rows["measure"] == "utility") & (rows["first"].map(lambda c: c[1:] == ("base", "kto")))]
    assert (better["low"] > 0.25).all(), "KTO from base wins 45 points more than its start"


def test_crowds_are_served_where_they_see_the_better_completion(tmp_path):
    folder = synthetic.write_run(tmp_path / "s", "dpo", "sft", 0, prompts=4)
    rows = [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]
    for row, (majority, minority) in zip(rows, [(1, 0), (1, 1), (2, 1), (0, 3)], strict=True):
        row["scores"] |= {"majority": majority, "reference_majority": 1, "minority": minority, "reference_minority": 1}
    synthetic.write_lines(folder / "judgements.jsonl", rows)
    table = utility_gap.measures(Sweep.load("s", tmp_path))
    assert table["majority_served"].tolist() == [0.5, 0.5, 1.0, 0.0]
    assert table["minority_served"].tolist() == [0.0, 0.5, 0.5, 1.0]
    titles = {axis.get_title(loc="left") for axis in utility_gap.draw(Sweep.load("s", tmp_path)).figure.axes}
    assert {"Majority served", "Minority served"} <= titles


def test_gold_utility_falls_while_perceived_utility_rises(sweep):
    tables = over_optimisation.curves(sweep)
    kto = {name: t.query("method == 'kto' and start == 'base'").set_index("kl")["value"] for name, t in tables.items()}
    assert kto["perceived"].is_monotonic_increasing
    assert kto["utility"].idxmax() < 3.0
    drawing = over_optimisation.draw(sweep)
    assert "4 steps" in drawing.caption
    shown = [axis for axis in drawing.figure.axes if axis.get_visible()]
    assert len(shown) == 4, "two losses from two starts"
    assert all(axis.get_xlim()[1] > 3.0 for axis in shown), "the last point, at 3 nats, is inside"
    assert shown[0].transData.transform((4, 0))[0] - shown[0].transData.transform((0, 0))[0] == pytest.approx(
        2 * (shown[0].transData.transform((1, 0))[0] - shown[0].transData.transform((0, 0))[0])
    ), "a square-root axis"


def test_bins_of_the_reliability_curve_hold_all_examples(tmp_path):
    table = reliability.curves(load(tmp_path, n=130))
    dpo = table[(table["method"] == "dpo") & (table["scale"] == "own")]
    assert dpo["n"].sum() == 2 * 130
    assert len(dpo) == 6
    assert dpo["probability"].is_monotonic_increasing


@pytest.mark.parametrize(
    "module", [reliability.draw, reward_model_table.make, mislabelled_table.make, reward_bias_table.make]
)
def test_records_without_implied_rewards_say_so(tmp_path, module):
    folder = synthetic.write_run(tmp_path / "s", "dpo", "sft", 0)
    (folder / "implied_rewards.jsonl.gz").unlink()
    with pytest.raises(NoDataError, match="implied reward"):
        module(Sweep.load("s", tmp_path))
    assert isinstance(Sweep.load("s", tmp_path).implied_rewards, pd.DataFrame)


def test_choices_by_hand(tmp_path):
    folder = synthetic.write_run(tmp_path / "s", "dpo", "sft", 0)
    rows = [
        {"task": "plain", "doc_id": 0, "right": 1, "log_probs": [np.log(0.1), np.log(0.3)], "characters": [1, 1]},
        {"task": "long", "doc_id": 0, "right": 0, "log_probs": [2 * np.log(0.5), np.log(0.25)], "characters": [2, 1]},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "choices.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    scores = json.loads((folder / "scores.json").read_text())
    scores["benchmarks"] = {"plain": {"metric": "acc"}, "long": {"metric": "acc_norm"}}
    synthetic.write_json(folder / "scores.json", scores)
    table = Sweep.load("s", tmp_path).choices.set_index("task")
    plain, long = table.loc["plain"], table.loc["long"]
    assert (plain["probability"], plain["brier"]) == (pytest.approx(0.75), pytest.approx(2 * 0.25**2))
    assert not plain["normalised"]
    assert (long["probability"], long["correct"]) == (pytest.approx(0.5 / 0.75), 1.0), "per character 0.5 against 0.25"


def test_calibrated_choices_have_little_error_and_bold_ones_much(tmp_path):
    for name, temperature in (("calm", 1.0), ("bold", 5.0)):
        for seed in range(5):
            folder = synthetic.write_run(tmp_path / name, "dpo", "sft", seed, prompts=400)
            synthetic.write_choices(folder, seed, 400, temperature)
    calm, bold = (choices_table.calibrations(Sweep.load(name, tmp_path)).iloc[0] for name in ("calm", "bold"))
    assert calm["accuracy"] == bold["accuracy"]
    assert calm["ece"] < 0.05 < 0.15 < bold["ece_low"]
    assert calm["brier_high"] < bold["brier_low"]
    assert bold["confidence_low"] > bold["accuracy_high"]
