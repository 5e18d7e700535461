"""From the published annotations and outputs our code gives the leaderboards' numbers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from alpaca_data import ANNOTATED, FOLDER, annotations_path, as_completions, read_rows
from judge_server import JudgeServer, Reply

from kto_bench.component import build
from kto_bench.evaluation.judges.head_to_head import judge as judge_rows
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.question_sets.alpaca.published import leaderboard, shown
from kto_bench.evaluation.question_sets.alpaca.questions import AlpacaEvalPrompts
from kto_bench.evaluation.question_sets.alpaca.win_rates import from_annotations, win_rates


def official_judge(version: int, url: str) -> Judge:
    settings = {
        1: {"model": "gpt-4", "max_tokens": 100, "temperature": 0, "annotator": "alpaca_eval_gpt4"},
        2: {
            "model": "gpt-4-1106-preview",
            "max_tokens": 1,
            "temperature": 1,
            "top_logprobs": 5,
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
        },
    }[version]
    wording = "kto_bench.evaluation.question_sets.alpaca.wording.AlpacaEvalWording"
    node = {
        "_target_": "kto_bench.evaluation.judges.endpoint_judge.EndpointJudge",
        "name": f"alpaca_eval_{version}",
        "wording": {"_target_": wording, "annotator": settings.pop("annotator")},
        **{"base_url": url, "key_variable": None, "input_price": 0, "output_price": 0, "asks": 1},
        **settings,
    }
    return build(node, Judge, "evaluation.judge")


def as_reply(raw: Any) -> Reply:
    """The answer of OpenAI's server that a published annotation keeps."""
    if isinstance(raw, str):
        return Reply(raw)
    top = raw["logprobs"]["content"][0]["top_logprobs"]
    return Reply(raw["text"], {token["token"]: token["logprob"] for token in top})


@pytest.mark.parametrize(("model", "version"), ANNOTATED)
def test_raw_win_rates_are_the_leaderboards(shared, model, version):
    found = win_rates(from_annotations(read_rows(annotations_path(shared, model, version))), None)
    row = leaderboard(version).loc[model]
    rate = found["values"]["win rate"]
    assert 100 * rate["value"] == pytest.approx(row["win_rate"], abs=1e-9)
    assert 100 * rate["standard_error"] == pytest.approx(row["standard_error"], rel=0.06)  # a bootstrap's: 2000 draws
    assert rate["low"] < rate["value"] < rate["high"]
    counts = {name: found["counts"][name] for name in ("n_wins", "n_wins_base", "n_draws", "n_total")}
    assert counts == {name: int(row[name]) for name in counts}
    assert 100 * found["counts"]["discrete win rate"] == pytest.approx(row["discrete_win_rate"], abs=1e-9)
    assert int(found["mean characters"]) == row["avg_length"]


@pytest.mark.parametrize(("model", "version"), [("alpaca-7b", 2), ("phi-2-dpo", 1)])
def test_published_answers_of_the_judge_give_the_published_preferences_through_http(shared, tmp_path, model, version):
    """All the way: orders, prompts, HTTP, parsing, orders undone. Only the judge's answers are played back.

    A wrong order of any prompt would turn its preference round. Every tenth question: all 805 were found to agree once.
    """
    rows = read_rows(annotations_path(shared, model, version))[::10]
    annotations = [row for row in rows if isinstance(row.get("raw_completion"), str | dict)]
    answers = {row["instruction"]: as_reply(row["raw_completion"]) for row in annotations}

    def reply(request: dict[str, Any], seen: int) -> Reply:
        text = request["messages"][-1]["content"]
        told = text.partition('"instruction": """')[2]
        return answers[next(instruction for instruction in answers if told.startswith(f'{instruction}"""'))]

    with JudgeServer(reply) as server:
        judgements, summary = judge_rows(as_completions(annotations), official_judge(version, server.url), tmp_path)
    published = [row["preference"] - 1 for row in annotations]
    assert [row["preference"] for row in judgements] == pytest.approx(published, abs=1e-6)
    assert summary["n"] == len(annotations) >= 70
    request = server.requests[0]
    sent = request["model"], request["max_tokens"], request.get("top_logprobs")
    assert sent == {1: ("gpt-4", 100, None), 2: ("gpt-4-1106-preview", 1, 5)}[version]


def test_published_rows_for_tables_are_shares(shared):
    rows = {row["model"]: row for row in shown(2)}
    assert rows["Contextual-KTO-Mistral-PairRM"]["win rate"] == pytest.approx(0.33227355200024846)
    assert rows["Contextual-KTO-Mistral-PairRM"]["length-controlled win rate"] == pytest.approx(0.29705808939683976)
    assert rows["Llama-3-Instruct-8B-SimPO"]["length-controlled win rate"] == pytest.approx(0.4465131348921881)
    assert {row["model"]: row for row in shown(1)}["text_davinci_003"]["length-controlled win rate"] is None
    file = shared(f"{FOLDER}/leaderboard.weighted_alpaca_eval_gpt4_turbo.csv")
    assert leaderboard(2, file)["win_rate"].to_dict() == leaderboard(2)["win_rate"].to_dict()


@pytest.mark.parametrize(("model", "version"), ANNOTATED)
def test_length_controlled_win_rates_are_the_leaderboards_where_the_gamed_baselines_are_at_hand(shared, model, version):
    gamed = shared(f"{FOLDER}/df_gamed.csv")
    frame = from_annotations(read_rows(annotations_path(shared, model, version)))
    fitted = win_rates(frame, "length_controlled_v1", gamed)["values"]["length-controlled win rate"]
    expected = leaderboard(version).loc[model, "length_controlled_winrate"]
    assert not math.isnan(expected)
    assert 100 * fitted["value"] == pytest.approx(expected, abs=0.01)


def test_statistics_of_a_published_set_are_comparable_with_it_and_say_so(shared, tmp_path):
    """Published annotations as a run's completions and judgements, judged by the official annotator: no notes."""
    path = annotations_path(shared, "tulu-2-dpo-7b", 1)
    annotations = read_rows(path)
    prompts = AlpacaEvalPrompts(version=1, path=path, length_control=None)
    completions = as_completions(annotations)
    assert [row["reference"] for row in completions] == [prompt.reference for prompt in prompts.load(None)]
    judgements = [
        {"prompt_id": row["prompt_id"], "preference": annotation["preference"] - 1}
        for row, annotation in zip(completions, annotations, strict=True)
    ]
    judge = official_judge(1, "http://127.0.0.1:1/v1")
    found = json.loads(json.dumps(prompts.statistics(completions, judgements, judge)))
    assert found["notes"] == []
    assert found["set"] == "AlpacaEval 1"
    assert found["values"]["win rate"]["value"] == pytest.approx(0.8422360248447205)
    assert "tulu-2-dpo-7b" in {row["model"] for row in found["published"]}
    other = AlpacaEvalPrompts(version=1, path=shared(f"{FOLDER}/text_davinci_003.model_outputs.json.gz"))
    references = {prompt.id: prompt.reference for prompt in other.load(None)}
    changed = [{**row, "reference": references[row["prompt_id"]]} for row in completions]
    notes = prompts.statistics(changed, judgements, judge)["notes"]
    assert notes == ["other reference outputs than the leaderboard's text_davinci_003"]
