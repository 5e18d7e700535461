"""The figure of scores over training, against a planted sweep whose truth is known."""

from __future__ import annotations

import json

import pytest
import synthetic

from analysis import over_training
from analysis.findings import findings
from kto_bench.results import Sweep


def test_points_are_means_at_each_step_with_what_was_spent(sweep):
    judged = sweep.over_training
    rows = over_training.points(sweep, judged, "preference", "prompt_id")
    assert set(rows["method"]) == {"dpo", "kto"}, "the others were not evaluated over training"
    kto = rows.query("method == 'kto' and start == 'sft'").set_index("step")
    assert list(kto.index) == [0, 10, 20, 40]
    assert kto["kl"].tolist() == pytest.approx([0.0, 0.75, 1.5, 3.0])
    assert kto["completions"].tolist() == [0, 640, 1280, 2560]
    assert kto.loc[0, "value"] == 0.0
    final = sweep.outcomes.query("method == 'kto' and start == 'sft'")["preference"].mean()
    assert kto.loc[40, "value"] == pytest.approx(final), "the last point is the run's score"
    assert (kto["low"] <= kto["value"]).all()
    assert (kto["value"] <= kto["high"]).all()
    assert (kto["seeds"] == 5).all()


def test_the_figure_has_a_column_for_each_axis_and_a_row_for_each_score(sweep):
    drawing = over_training.draw(sweep)
    assert [axis.get_xlabel() for axis in drawing.figure.axes[-3:]] == list(over_training.AXES.values())
    assert [axis.get_ylabel() for axis in drawing.figure.axes[::3]] == ["Win rate (%)", "Benchmarks (%)"]
    lines = drawing.figure.axes[0].containers
    assert len(lines) == 4  # two losses from two starts
    assert "4 steps" in drawing.caption


def test_only_shares_of_right_answers_are_put_together(tmp_path):
    folder = synthetic.write_run(tmp_path / "s", "kto", "sft", 0, at_steps=(0,))
    at = {"step": 0, "completions": 0, "doc_id": 0}
    more = [
        {**at, "task": "words", "metric": "perplexity", "value": 40.0},
        {**at, "task": "sandbox_facts", "metric": "acc_norm", "value": 0.0},
    ]
    with (folder / "benchmarks_over_training.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in more)
    (score,) = [one for one in over_training._scores(Sweep.load("s", tmp_path)) if one.unit == "unit"]
    assert set(zip(score.table["task"], score.table["metric"], strict=True)) == {
        ("sandbox_facts", "acc"),
        ("sandbox_arithmetic", "acc"),
    }


def test_ratings_without_a_preference_are_drawn_on_their_own_scale(tmp_path):
    """MT-Bench's answers are graded, and compared with nothing."""
    folder = synthetic.write_run(tmp_path / "s", "kto", "sft", 0, at_steps=(0,))
    rows = [json.loads(line) for line in (folder / "over_training.jsonl").read_text().splitlines()]
    graded = [{**row, "preference": None, "scores": {"rating": 4.0 if row["step"] else 2.0}} for row in rows]
    (folder / "over_training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in graded))
    (folder / "benchmarks_over_training.jsonl").unlink()
    axes = over_training.draw(Sweep.load("s", tmp_path)).figure.axes
    assert axes[0].get_ylabel() == "Rating (1 to 10)"
    assert axes[1].containers[0].lines[0].get_ydata().tolist() == [2.0, 4.0]


def test_without_completions_there_is_no_kl_axis(tmp_path):
    folder = synthetic.write_run(tmp_path / "s", "kto", "sft", 0, at_steps=(0,))
    (folder / "over_training.jsonl").unlink()
    axes = over_training.draw(Sweep.load("s", tmp_path)).figure.axes
    assert [axis.get_xlabel() for axis in axes] == [over_training.AXES["step"], over_training.AXES["completions"]]


def test_the_report_says_when_runs_were_generated_by_different_programs(tmp_path):
    vllm = {"config": {"evaluation": {"generation": {"backend": "vllm"}}}}
    synthetic.write_run(tmp_path / "one", "kto", "sft", 0, **vllm)
    synthetic.write_run(tmp_path / "one", "dpo", "sft", 0, **vllm)
    synthetic.write_run(tmp_path / "two", "kto", "sft", 0, **vllm)
    synthetic.write_run(tmp_path / "two", "dpo", "sft", 0)
    one, two = (
        " ".join(sentence for finding in findings(Sweep.load(name, tmp_path)) for sentence in finding.sentences)
        for name in ("one", "two")
    )
    assert "different programs (1 run by transformers and 1 run by vllm)" in two
    assert "different programs" not in one
