"""AlpacaEval 2 as a user runs it: generation, a judge behind HTTP, statistics in the record, a table in the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, Reply
from question_set_run import configured, record_of

from analysis.question_sets import make
from kto_bench.evaluation.question_sets.alpaca import length_control
from kto_bench.lines import read_lines
from kto_bench.results import Sweep
from kto_bench.run import execute

QUESTIONS = [{"instruction": f"w{i} w{i + 1}", "output": f"w{i + 3} w{i}"} for i in range(8)]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    path = tmp_path / "alpaca_eval_gpt4_baseline.json"
    path.write_text(json.dumps(QUESTIONS))
    return path


def prefers_m(request: dict[str, Any], seen: int) -> Reply:
    """Gives what is shown first 0.8, whatever it is."""
    assert request["top_logprobs"] == 5
    return Reply("m", {"m": math.log(0.8), "M": math.log(0.2)})


def test_a_run_leaves_win_rates_beside_the_published_ones_and_repeats_only_what_changed(
    tmp_path, checkpoint, outputs, capfd, monkeypatch
):
    monkeypatch.setattr(length_control, "REPLICATES", 10)  # each takes some hundredths of a second
    with JudgeServer(prefers_m) as server:
        paths = [f"evaluation.prompts.path={outputs}", "evaluation.prompts.length_control=null"]
        config = configured("alpaca_eval_2", tmp_path, checkpoint, server.url, *paths)
        assert execute(config) == "done"
        assert "8 answers to ask for" in capfd.readouterr().err  # and what they cost
        record = record_of(tmp_path)
        judgements = read_lines(record / "judgements.jsonl")
        for row in judgements:
            (asked,) = row["asks"]
            assert row["preference"] == pytest.approx(0.8 if asked["ours"] == 1 else 0.2)
        statistics = json.loads((record / "scores.json").read_text())["statistics"]
        mean = sum(row["preference"] for row in judgements) / len(judgements)
        assert statistics["values"]["win rate"]["value"] == pytest.approx(mean)
        other = "other reference outputs than the leaderboard's gpt4_1106_preview"
        assert statistics["notes"] == ["8 of 805 questions", other]
        assert len(server.requests) == 8

        minimal = [paths[0], "evaluation.prompts.length_control=length_controlled_minimal", "sweep=again"]
        again = configured("alpaca_eval_2", tmp_path, checkpoint, server.url, *minimal)
        assert execute(again) == "done"
        assert len(server.requests) == 8  # nothing is judged, or paid, a second time
    sweep = Sweep.load("again", tmp_path / "results")
    sheet = make(sweep)
    assert {"Win rate (%)", "Length-controlled win rate (%)"} <= set(sheet.display)
    assert "Contextual-KTO-Mistral-PairRM (published)" in sheet.display["Model"].tolist()
    assert "length control without difficulties" in sheet.caption


def test_missing_log_probabilities_fail_the_evaluation_with_their_count(tmp_path, checkpoint, outputs):
    with JudgeServer(lambda request, seen: Reply("m")) as server:
        paths = [f"evaluation.prompts.path={outputs}", "evaluation.prompts.length_control=null"]
        config = configured("alpaca_eval_2", tmp_path, checkpoint, server.url, *paths, "evaluation.judge.asks=1")
        assert execute(config) == "failed"
    status = json.loads((record_of(tmp_path) / "status.json").read_text())
    assert "8 of 8" in status["reason"]


def test_a_run_that_lacks_a_file_is_refused_before_anything_is_computed(tmp_path, checkpoint, outputs):
    from kto_bench.component import ConfigError
    from kto_bench.run import describe

    config = configured(
        "alpaca_eval_2", tmp_path, checkpoint, "http://localhost:1/v1", f"evaluation.prompts.path={outputs}"
    )
    with pytest.raises(ConfigError, match=r"evaluation.prompts.gamed_path: df_gamed.csv"):
        describe(config)
    assert not (tmp_path / "artifacts").exists()
