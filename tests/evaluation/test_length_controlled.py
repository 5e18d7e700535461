"""Length-controlled win rates: alpaca_eval's own numbers, the error of the whole fit, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.question_sets.alpaca import length_control

N = 150
THETA, PHI, PSI = -1.0, -1.4, 0.8


def drawn(seed: int, theta: float = THETA) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(frame, gamed baselines) drawn from the model that is fitted, binary preferences; lengths favour the baseline."""
    rng = np.random.default_rng(seed)
    difficulty = np.random.default_rng(7).normal(size=N)
    baseline, model = rng.integers(500, 2500, N), rng.integers(300, 1800, N)
    difference = (baseline - model) / (baseline - model).std(ddof=1)
    chance = logistic(theta + PHI * np.tanh(difference) + PSI * difficulty)
    frame = pd.DataFrame(
        {
            "index": range(N),
            "preference": (rng.random(N) < chance).astype(float),
            "length_model": model,
            "length_baseline": baseline,
        }
    )
    parts = []
    for shift in (-0.6, 0.6):
        lengths = np.random.default_rng(8).normal(shift, 1, N)
        part = {"index": range(N), "preference": logistic(-1.5 * np.tanh(lengths)), "std_delta_len": lengths}
        parts.append(pd.DataFrame({**part, "instruction_difficulty": difficulty, "not_gamed_baseline": False}))
    return frame, pd.concat(parts, ignore_index=True).assign(model="gamed")


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_fit_is_alpaca_evals_own(tmp_path):
    frame, gamed = drawn(0)
    gamed.to_csv(tmp_path / "df_gamed.csv", index=False)
    annotations = pd.DataFrame(
        {
            "preference": frame["preference"] + 1,
            "output_1": ["x" * n for n in frame["length_baseline"]],
            "output_2": ["y" * n for n in frame["length_model"]],
            "generator_1": "baseline",
            "generator_2": "ours",
            "annotator": "a",
        }
    )
    from alpaca_eval.metrics import glm_winrate

    with mock.patch.object(glm_winrate, "hf_hub_download", return_value=tmp_path / "df_gamed.csv"):
        for control in ("length_controlled_v1", "length_controlled_minimal"):
            theirs = glm_winrate.get_length_controlled_winrate(annotations, control, save_weights_dir=None)
            ours = length_control.fit(frame, control, length_control.gamed_baselines(tmp_path / "df_gamed.csv"))
            assert 100 * ours.win_rate == pytest.approx(theirs["length_controlled_winrate"], abs=1e-9)


def test_rows_are_matched_with_difficulties_by_question_not_by_place(tmp_path):
    frame, gamed = drawn(1)
    straight = length_control.fit(frame, "length_controlled_v1", gamed, 10.0)
    shuffled = length_control.fit(frame.sample(frac=1, random_state=0), "length_controlled_v1", gamed, 10.0)
    assert shuffled.win_rate == pytest.approx(straight.win_rate, abs=1e-4)
    shifted = length_control.fit(frame.assign(index=np.roll(frame["index"], 1)), "length_controlled_v1", gamed, 10.0)
    assert abs(shifted.weights["instruction_difficulty"]) < abs(straight.weights["instruction_difficulty"]) / 2


def test_the_truth_is_recovered_without_the_length_effect():
    """Mean over ten draws: within 3 standard errors of the rate that the drawing model has at equal lengths."""
    difficulty = drawn(0)[1].drop_duplicates("index")["instruction_difficulty"].to_numpy()
    truth = logistic(THETA + PSI * difficulty).mean()
    fits = [length_control.fit(*_unpack(drawn(seed)), 10.0).win_rate for seed in range(10)]
    raw = np.mean([drawn(seed)[0]["preference"].mean() for seed in range(10)])
    error = np.std(fits, ddof=1) / np.sqrt(10)
    assert abs(np.mean(fits) - truth) < 3 * error
    assert abs(raw - truth) > 3 * error  # the raw rate pays for being short


def test_the_interval_covers_the_fit_which_alpaca_evals_error_does_not():
    """Its width is the spread of estimates over new sets of judgements, to 40%."""
    estimates = [length_control.fit(*_unpack(drawn(seed)), 10.0).win_rate for seed in range(100, 130)]
    frame, gamed = drawn(100)
    rng = np.random.default_rng(0)
    replicates = length_control.replicates(frame, "length_controlled_v1", gamed, 10.0, rng, count=40)
    assert np.std(replicates, ddof=1) == pytest.approx(np.std(estimates, ddof=1), rel=0.4)
    fit = length_control.fit(frame, "length_controlled_v1", gamed, 10.0)
    difficulty = gamed.drop_duplicates("index")["instruction_difficulty"].to_numpy()
    predicted = logistic(
        fit.weights["not_gamed_baseline.astype(float)"] + fit.weights["instruction_difficulty"] * difficulty
    )
    theirs = predicted.std(ddof=1) / np.sqrt(N)  # lc_standard_error: the coefficients taken for known
    assert theirs < np.std(estimates, ddof=1) / 1.5


def _unpack(both: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, length_control.LengthControl, pd.DataFrame]:
    frame, gamed = both
    return frame, "length_controlled_v1", gamed


def test_a_replicate_predicts_for_the_prompts_that_were_drawn():
    frame, gamed = drawn(6)
    counts = np.where(np.arange(N) < 20, 7, 0)
    fit = length_control._Regression(frame, "length_controlled_v1", gamed).solve(10.0, counts)
    difficulty = gamed.drop_duplicates("index")["instruction_difficulty"].to_numpy()
    theta, psi = fit.weights["not_gamed_baseline.astype(float)"], fit.weights["instruction_difficulty"]
    assert fit.win_rate == pytest.approx(logistic(theta + psi * difficulty[:20]).mean())
    assert abs(fit.win_rate - logistic(theta + psi * difficulty).mean()) > 0.01


def test_replicates_draw_some_questions_when_only_some_were_asked():
    frame, gamed = drawn(2)
    some = frame.iloc[:60]
    found = length_control.replicates(some, "length_controlled_v1", gamed, 10.0, np.random.default_rng(0), count=3)
    assert len(set(found)) == 3
    assert ((found > 0) & (found < 1)).all()


def test_equal_lengths_leave_the_raw_rate_and_no_file_is_needed_for_the_minimal_fit():
    frame = drawn(3)[0].assign(length_model=100, length_baseline=100)
    fit = length_control.fit(frame, "length_controlled_minimal", None)
    assert fit.win_rate == pytest.approx(frame["preference"].mean(), abs=0.01)


@pytest.mark.parametrize("preference", [0.0, 1.0])
def test_who_never_wins_has_no_half_and_who_always_wins_neither(preference, capfd):
    """Alone, alpaca_eval's fit of one class is the starting point: a half."""
    frame = drawn(3)[0].assign(preference=preference)
    fit = length_control.fit(frame, "length_controlled_minimal", None)
    assert fit.win_rate == preference
    rng = np.random.default_rng(0)
    one = frame.assign(preference=[1 - preference, *[preference] * (N - 1)])  # of which a third of all draws have none
    replicates = length_control.replicates(one, "length_controlled_minimal", None, 10.0, rng, count=20)
    assert (abs(replicates - preference) < 0.1).all()
    assert (replicates == preference).any()
    assert "class label" not in "".join(capfd.readouterr())


def test_too_few_questions_for_the_cross_validation_are_refused():
    with pytest.raises(EvaluationError, match="length control: 4 judged questions are too few"):
        length_control.fit(drawn(0)[0].iloc[:4].assign(preference=[0, 1, 0.5, 1]), "length_controlled_minimal", None)


def test_scikit_learn_is_left_as_it_was_and_nothing_is_printed(capfd):
    import sklearn

    before = sklearn.get_config()
    length_control.fit(drawn(4)[0], "length_controlled_minimal", None)
    assert sklearn.get_config() == before
    assert capfd.readouterr() == ("", "")


def test_questions_without_a_difficulty_are_refused():
    frame, gamed = drawn(5)
    with pytest.raises(EvaluationError, match=r"no difficulty is known of 2 questions: \[148, 149\]"):
        length_control.fit(frame, "length_controlled_v1", gamed[gamed["index"] < 148])


def test_a_missing_or_wrong_file_names_the_field(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"evaluation.prompts.gamed_path: df_gamed.csv of the hub's dataset tatsu-lab"
    ):
        length_control.gamed_baselines(None)  # tests are offline
    (tmp_path / "other.csv").write_text("index,preference\n0,1\n")
    with pytest.raises(ConfigError, match=r"lacks the columns \['std_delta_len', 'instruction_difficulty'"):
        length_control.gamed_baselines(tmp_path / "other.csv")
    with pytest.raises(ConfigError, match="is not a file"):
        length_control.gamed_baselines(tmp_path / "none.csv")
