"""Every figure and table that is discovered draws the planted sweep, and says why it cannot draw an empty one."""

import numpy as np
import pytest
import synthetic

from analysis import benchmarks, guards_table, length, runs_table, style, summary_table, training, win_rate
from analysis.registry import Drawing, NoDataError, Sheet, discover
from kto_bench.results import Sweep

FIGURES, TABLES = discover("FIGURE"), discover("TABLE")


def texts(figure):
    found = {text.get_text() for axis in figure.axes for text in [axis.title, axis.xaxis.label, axis.yaxis.label]}
    found |= {text.get_text() for axis in figure.axes for text in [*axis.get_yticklabels(), *axis.texts]}
    found |= {axis.get_title(loc="left") for axis in figure.axes}
    return found | {text.get_text() for legend in figure.legends for text in legend.get_texts()}


@pytest.fixture
def unfinished(tmp_path):
    synthetic.write_run(tmp_path / "s", "none", "sft", 0, state="failed")
    return Sweep.load("s", tmp_path)


def test_modules_are_discovered_in_the_order_of_the_report():
    assert list(FIGURES) == [
        "win_rate",
        "benchmarks",
        "length",
        "training",
        "over_training",
        "tuning",
        "reliability",
        "utility_gap",
        "over_optimisation",
        "data_report",
    ]
    assert list(TABLES) == [
        "summary_table",
        "comparisons",
        "question_sets",
        "guards_table",
        "budget_table",
        "warnings_table",
        "runs_table",
        "tuning_table",
        "reward_model_table",
        "mislabelled_table",
        "reward_bias_table",
        "utility_gap",
        "choices_table",
        "data_report",
    ]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_and_state_n(name, sweep):
    drawing = FIGURES[name].make(sweep)
    assert isinstance(drawing, Drawing)
    assert "n = " in drawing.caption


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_same_rows_for_machines_and_people(name, sweep):
    sheet = TABLES[name].make(sweep)
    assert isinstance(sheet, Sheet)
    assert len(sheet.numbers) == len(sheet.display) > 0
    assert not sheet.display.isna().any().any()


@pytest.mark.parametrize("name", [*FIGURES, *(name for name in TABLES if name != "runs_table")])
def test_without_finished_runs_a_reason_is_given(name, unfinished):
    with pytest.raises(NoDataError, match=r"run|tuned"):
        (FIGURES | TABLES)[name].make(unfinished if name != "training" else _without_metrics(unfinished))


def _without_metrics(sweep):
    assert sweep.training.empty
    return sweep


def test_win_rates_are_means_with_intervals_around_them(sweep):
    rates = win_rate.win_rates(sweep).set_index(["start", "method"])
    losses = ("none", "sft", "dpo", "kto", "simpo")
    assert list(rates.index) == [(start, loss) for start in ("base", "sft") for loss in losses]
    for (loss, start), truth in synthetic.TRUTH.items():
        row = rates.loc[(start, loss)]
        preferences = sweep.outcomes.query("loss == @loss and start == @start")["preference"]
        assert row["value"] == pytest.approx(preferences.mean())
        # a tie, one in ten, pulls the planted rate towards one half
        assert row["low"] < 0.9 * truth + 0.05 < row["high"]
        assert (row["seeds"], row["prompts"]) == (5, 128)
        assert np.mean(row["by_seed"]) == pytest.approx(row["value"])


def test_win_rate_figure_labels_every_loss_and_start(sweep):
    figure = win_rate.draw(sweep).figure
    assert {"none (start only)", "SFT", "DPO", "KTO", "SimPO", "from base", "from SFT", "win rate (%)"} <= texts(figure)
    assert len(figure.axes) == 1
    drawn = {(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()}
    assert {(style.colour(loss), style.marker(start)) for loss, start in synthetic.TRUTH} <= drawn


def test_one_seed_is_said_to_be_one_seed(tmp_path):
    synthetic.write_run(tmp_path / "s", "kto", "sft", 0)
    caption = win_rate.draw(Sweep.load("s", tmp_path)).caption
    assert "Wilson" in caption
    assert "another seed may differ" in caption
    assert "64 prompts × 1 seed." in caption


def test_two_seeds_are_said_to_be_few(tmp_path):
    for seed in (0, 1):
        synthetic.write_run(tmp_path / "s", "kto", "sft", seed)
    assert "Two seeds say little" in win_rate.draw(Sweep.load("s", tmp_path)).caption


def test_each_setting_has_a_panel_of_its_own(tmp_path):
    for feedback in ("big", "small"):
        for loss in ("none", "kto"):
            synthetic.write_run(tmp_path / "s", loss, "sft", 0, hash_=feedback, labels={"feedback": feedback})
    sweep = Sweep.load("s", tmp_path)
    assert {"big", "small"} <= texts(win_rate.draw(sweep).figure)
    gains = summary_table.gains(sweep)
    assert {(row["first"], row["second"]) for row in gains.to_dict("records")} == {
        ((feedback, "sft", "kto"), (feedback, "sft", "none")) for feedback in ("big", "small")
    }


def labels_by_panel(figure):
    shown = [axis for axis in figure.axes if axis.get_visible()]
    return {axis.get_title(loc="left"): [label.get_text() for label in axis.get_yticklabels()] for axis in shown}


@pytest.mark.filterwarnings("error")
def test_a_mixed_folder_shows_each_setting_with_its_own_methods_only(tmp_path):
    synthetic.write_mixed(tmp_path)
    sweep = Sweep.load("mixed", tmp_path)
    assert sweep.outcomes.groupby("setting")["method"].unique().map(sorted).to_dict() == {
        "sandbox · sandbox_small": ["dpo", "kto beta=0.1", "kto beta=0.3"],
        "ultrafeedback_binarized · meta_llama_3_8b_instruct": ["kto"],
        "kto_mix_14k · qwen2_5_7b": ["dpo"],
    }
    for name in FIGURES.keys() - {"tuning"}:
        style.save(FIGURES[name].make(sweep).figure, tmp_path, name)
    assert labels_by_panel(win_rate.draw(sweep).figure) == {
        "sandbox · sandbox_small": ["DPO", "KTO beta=0.1", "KTO beta=0.3"],
        "ultrafeedback_b…_3_8b_instruct": ["KTO"],
        "kto_mix_14k · qwen2_5_7b": ["DPO"],
    }
    assert "ultrafeedback_binarized · meta_llama_3_8b_instruct" in set(summary_table.make(sweep).display["Setting"])


def test_benchmarks_have_a_panel_per_task(sweep):
    drawn = texts(benchmarks.draw(sweep).figure)
    assert {"sandbox_facts", "sandbox_arithmetic", "acc (%)"} <= drawn


def test_length_shows_the_reference_only_where_it_is_known(sweep, tmp_path):
    assert "reference's mean length" not in texts(length.draw(sweep).figure)
    folder = synthetic.write_run(tmp_path / "s", "kto", "sft", 0, prompts=8)
    lines = (folder / "completions.jsonl").read_text().splitlines()
    rows = [line.replace('"tokens"', '"reference_tokens": 7, "tokens"') for line in lines]
    (folder / "completions.jsonl").write_text("\n".join(rows))
    figure = length.draw(Sweep.load("s", tmp_path)).figure
    assert "reference's mean length" in texts(figure)
    marks = [line.get_xdata()[0] for line in figure.axes[0].get_lines() if line.get_gid() == "reference"]
    assert marks == [7]


def test_training_gives_every_loss_its_own_axes(sweep):
    figure = training.draw(sweep).figure
    losses = ["SFT", "DPO", "KTO", "ORPO", "SimPO"]
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == losses
    loss_axes = figure.axes[:: len(training.COLUMNS)]
    assert not any(a.get_shared_y_axes().joined(a, b) for a in loss_axes for b in loss_axes if a is not b)


def test_training_derives_the_margin_of_binary_losses_and_marks_what_is_not_logged(sweep):
    axes = training.draw(sweep).figure.axes
    kto = axes[8:12]  # third row
    rows = sweep.training.query("method == 'kto' and start == 'base' and step == 40")
    expected = (rows["rewards/desirable"] - rows["rewards/undesirable"]).mean()
    ends = [line.get_ydata()[-1] for line in kto[2].get_lines()]
    assert min(abs(end - expected) for end in ends) < 1e-9
    assert len(kto[3].get_lines()) > 0
    assert [text.get_text() for text in axes[7].texts] == ["not logged"]  # DPO has no KL estimate


def test_a_run_that_stopped_early_does_not_bend_the_mean(sweep):
    runs = sweep.training.query("method == 'kto' and start == 'sft'")
    assert runs["run"].nunique() == 6  # five finished, one still running
    (_, _, whole), *_ = list(training._by_start(runs, "training_loss", 1))
    assert len(whole) == 5


def test_summary_has_gains_over_the_same_start(sweep):
    numbers = summary_table.make(sweep).numbers.set_index(["start", "method"])
    rate = numbers["win_rate"]
    assert numbers.loc[("base", "kto"), "gain"] == pytest.approx(rate["base", "kto"] - rate["base", "none"])
    assert numbers.loc[("base", "kto"), "gain_p_holm"] < 0.05
    assert np.isnan(numbers.loc[("base", "none"), "gain"])
    assert (numbers["gain_p_holm"].dropna() >= numbers["gain_p"].dropna()).all()
    assert numbers.loc[("base", "dpo"), "share_capped"] > 0.15
    assert {"utility", "sandbox_facts (acc)", "sandbox_facts (acc)_low"} <= set(numbers)


def test_gains_use_only_seeds_that_both_have(tmp_path):
    for seed in (0, 1):
        synthetic.write_run(tmp_path / "s", "kto", "sft", seed, win=0.7)
    synthetic.write_run(tmp_path / "s", "none", "sft", 1, win=0.4)
    sweep = Sweep.load("s", tmp_path)
    (gain,) = summary_table.gains(sweep).to_dict("records")
    means = sweep.outcomes.query("seed == 1").groupby("loss")["preference"].mean()
    assert gain["value"] == pytest.approx(means["kto"] - means["none"])
    assert (gain["seeds"], gain["prompts"]) == (1, 64)


def test_summary_display_reads_well(sweep):
    row = summary_table.make(sweep).display.iloc[0]
    assert (row["Start"], row["Loss"], row["Gain (points)"], row["p (Holm)"]) == ("base", "none (start only)", "–", "–")
    assert row["Win rate (%)"].count("[") == 1


def test_runs_table_shows_every_state_and_reason(sweep):
    display = runs_table.make(sweep).display.set_index("Run")
    assert len(display) == 53
    assert display["State"].value_counts().to_dict() == {"done": 50, "running": 1, "failed": 1, "skipped": 1}
    assert "NaN at step 7" in display.loc["orpo-sft-sandbox_small-s0-1a2b3c4d", "Reason"]
    assert display.loc["kto-sft-sandbox_small-s0-1a2b3c4d", "Wall time"] == "1 min 10 s"


def test_guards_warn():
    fine = {"n": 10, "judged": 10, "share_capped": 0.05, "share_empty": 0.0, "repetition_4gram": 0.1}
    assert guards_table.warnings(fine) == []
    assert guards_table.warnings(fine | {"share_capped": 0.06}) == ["6% hit the token limit"]
    assert guards_table.warnings(fine | {"judged": 9}) == ["only 9 of 10 prompts were judged"]
    assert guards_table.warnings(fine | {"judged": None, "share_empty": 0.5}) == ["50% are empty"]
