"""A tuned sweep in the report: trials apart from results, what was tried and chosen, and the budget."""

import json
from dataclasses import replace

import numpy as np
import pytest
import synthetic

from analysis import budget_table, tuning, tuning_table
from analysis.findings import findings
from analysis.registry import NoDataError
from analysis.report import build
from analysis.statistics import expected_best
from analysis.trials import trials_of
from kto_bench.results import Sweep


@pytest.fixture
def tuned(tmp_path):
    synthetic.write_tuned(tmp_path)
    return Sweep.load("tuned", tmp_path)


def test_trials_are_in_no_comparison(tuned):
    assert len(tuned.runs) == 6
    assert set(tuned.outcomes["seed"]) == {0, 1}
    assert set(tuned.outcomes["method"]) == {"dpo", "kto", "none"}, "winners are not told apart by what was chosen"
    assert set(tuned.outcomes["setting"]) == {""}
    assert len(tuned.tuning.runs) == 8


def test_what_was_tried_and_chosen(tuned):
    table = tuning_table.make(tuned)
    numbers = table.numbers.set_index(["method", "trial"])
    assert list(numbers.loc["dpo", "settings"]) == ["beta=0.1", "beta=0.02", "beta=0.5", "beta=0.05"]
    assert numbers.index[numbers["chosen"]].tolist() == [("dpo", 2), ("kto", 0)]
    trial = tuned.tuning.outcomes.query("run.str.endswith('dpot2')")["preference"]
    assert numbers.loc[("dpo", 2), "validation"] == pytest.approx(trial.mean())
    assert numbers.loc[("dpo", 2), "validation_low"] < trial.mean() < numbers.loc[("dpo", 2), "validation_high"]
    test = tuned.outcomes.query("method == 'dpo'")["preference"]
    assert numbers.loc[("dpo", 2), "test"] == pytest.approx(test.mean())
    assert numbers.loc[("dpo", 3), ["validation", "test"]].isna().all()
    assert numbers.loc[("dpo", 3), "state"] == "failed"
    assert numbers["test"].notna().sum() == 2


def test_the_curve_is_that_of_the_scores_with_a_lost_trial_as_the_worst(tuned):
    dpo, kto = trials_of(tuned)
    means, curve = kto.outcomes.mean(axis=1), tuning.curve(kto)
    assert curve.value[0] == pytest.approx(means[0])
    assert (curve.value <= expected_best(means) + 1e-9).all(), "which are too high by what noise adds"
    assert curve.high.max() <= 1, "a win rate"
    assert tuning.curve(dpo).value[0] == pytest.approx(dpo.outcomes[0].mean())
    caption = tuning.draw(tuned).caption
    assert "1 trials diverged and count as the worst" in caption
    assert "n = 4 trials × 64 validation prompts, 1 seed" in caption


def test_a_win_rate_of_two_trials_is_at_most_one(tuned):
    kto = trials_of(tuned)[1]
    assert kto.bounded
    assert tuning.curve(replace(kto, outcomes=kto.outcomes[:2])).high[1] == 1
    other = replace(kto, outcomes=kto.outcomes[:2], score="utility")
    assert tuning.curve(other).high[1] == np.inf


def test_the_summary_says_how_it_was_tuned_and_what_was_matched(tuned):
    said = " ".join(findings(tuned)[0].sentences)
    assert "Every loss was tuned with 4 trials from its own space on one seed, and chosen by its win rate" in said
    assert "All runs were given a matched budget: 5000 tokens." in said
    table = budget_table.make(tuned)
    assert table.numbers.set_index("method")["updates"].to_dict() == {"dpo": 10, "kto": 7}
    assert table.caption.startswith("All runs were given a matched budget: 5000 tokens.")


def test_while_trials_run_the_report_waits_for_winners(tmp_path):
    synthetic.write_tuned(tmp_path, finals=False)
    (status,) = tmp_path.glob("tuned/kto-*t3/status.json")
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "running"}))
    sweep = Sweep.load("tuned", tmp_path)
    page = build(sweep, tmp_path / "report").read_text()
    assert "2 cells have no winner yet" in page
    assert (tmp_path / "report" / "figures" / "tuning.png").exists(), "DPO has all of its trials"
    assert "loss is NaN at step 7" in page, "a trial that failed is shown with its reason"


def test_an_earlier_winner_makes_way_for_a_later_one(tmp_path):
    folder = synthetic.write_tuned(tmp_path)
    for seed in (0, 1):
        config = {"space": {"beta": [0.1]}, "tune": {"trials": 3}, "role": "final", "trial": 1}
        config |= {"budget": {"completions": None, "updates": None, "tokens": 5000, "flops": None}}
        labels = {"role": "final", "trial": 1}
        old = synthetic.write_run(folder, "dpo", "sft", seed, beta=0.02, hash_="old", labels=labels, config=config)
        status = json.loads((old / "status.json").read_text())
        (old / "status.json").write_text(json.dumps({**status, "started": "2026-07-01T10:00:00"}))
    sweep = Sweep.load("tuned", tmp_path)
    assert set(sweep.outcomes["method"]) == {"dpo", "kto", "none"}
    old = sweep.runs.query("state == 'superseded'")
    assert old["run"].str.endswith("old").tolist() == [True, True]
    assert old["reason"].str.contains("settings, which were the best of earlier trials").all()
    assert [trials.chosen for trials in trials_of(sweep)] == [2, 0]


def test_a_sweep_that_was_not_tuned_says_so(tmp_path):
    synthetic.write_run(tmp_path / "plain", "dpo", "sft", 0)
    sweep = Sweep.load("plain", tmp_path)
    for entry in (tuning.draw, tuning_table.make):
        with pytest.raises(NoDataError, match="the sweep was not tuned"):
            entry(sweep)


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ((10, 10), "No budget was set for the sweep; the losses had the same updates and completions all the same."),
        ((10, 12), "No budget was set for the sweep; the losses had the same completions all the same."),
    ],
)
def test_without_a_budget_the_report_says_what_was_alike(tmp_path, updates, said):
    for loss, count, factor in zip(("dpo", "kto"), updates, (1, 2), strict=True):
        used = {"completions": 640, "updates": count, "tokens": 5000 * factor, "flops": 1e9 * factor}
        synthetic.write_run(tmp_path / "plain", loss, "sft", 0, used=used)
    assert budget_table.matched(Sweep.load("plain", tmp_path)) == said


def test_cells_that_no_label_tells_apart_are_tuned_and_compared_apart(tmp_path):
    """Two lengths of training, each with trials and a winner of its own."""
    for steps, winner in ((20, 0), (40, 1)):
        common = {"space": {"beta": [0.1, 0.5]}, "tune": {"trials": 2}}
        for trial, beta in enumerate((0.1, 0.5)):
            config = {**common, "role": "trial", "trial": trial}
            labels = {"role": "trial", "trial": trial}
            write = {"beta": beta, "planned": steps, "hash_": f"t{steps}{trial}", "labels": labels, "config": config}
            synthetic.write_run(tmp_path / "both", "dpo", "sft", 1000, **write)
        for seed in (0, 1):
            config, labels = {**common, "role": "final", "trial": winner}, {"role": "final", "trial": winner}
            write = {"planned": steps, "hash_": f"f{steps}", "labels": labels, "config": config}
            synthetic.write_run(tmp_path / "both", "dpo", "sft", seed, beta=(0.1, 0.5)[winner], **write)
    sweep = Sweep.load("both", tmp_path)
    assert set(sweep.outcomes["method"]) == {"dpo steps=20", "dpo steps=40"}
    assert [(trials.cell[2], len(trials.records), trials.chosen) for trials in trials_of(sweep)] == [
        ("dpo steps=20", 2, 0),
        ("dpo steps=40", 2, 1),
    ]


def test_two_trials_of_an_unbounded_score_are_drawn_without_an_upper_end(tmp_path):
    for trial, beta in enumerate((0.1, 0.5)):
        labels = {"role": "trial", "trial": trial}
        config = {"space": {"beta": [0.1, 0.5]}, "tune": {"trials": 2, "score": "utility"}, **labels}
        write = {"beta": beta, "hash_": f"t{trial}", "labels": labels, "config": config}
        synthetic.write_run(tmp_path / "two", "dpo", "sft", 1000, **write)
    sweep = Sweep.load("two", tmp_path)
    (trials,) = trials_of(sweep)
    curve = tuning.curve(trials)
    assert np.isfinite(curve.high).tolist() == [True, False]
    drawing = tuning.draw(sweep)
    low, high = drawing.figure.axes[0].get_ylim()
    scores = trials.outcomes.mean(axis=1)
    assert low < min(scores.min(), curve.low[0])
    assert max(scores.max(), curve.high[0]) < high < np.inf
