import pytest

from kto_bench.component import build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.head_to_head import judge as compare
from kto_bench.evaluation.judges.judge import Judge, quote
from kto_bench.feedback.types import Feedback
from kto_bench.sandbox.judge import GoldUtilityJudge
from kto_bench.sandbox.prompts import SandboxPrompts
from kto_bench.sandbox.world import FACTS, VALUES

ASK = "please what colour is the cat?"
RIGHT = f"the cat is {FACTS['cat', 'colour']}."
WRONG = next(f"the cat is {value}." for value in VALUES["colour"] if value != FACTS["cat", "colour"])


def test_prefers_the_higher_utility():
    judge = GoldUtilityJudge()
    comparisons = [(RIGHT, WRONG), (WRONG, RIGHT), (RIGHT, RIGHT), (RIGHT, f"sure! {RIGHT}"), ("", "\x00{output_1}")]
    prompts = [
        judge.prompt_template.format(instruction=quote(ASK), output_1=quote(first), output_2=quote(second))
        for first, second in comparisons
    ]
    assert judge.complete(prompts) == ["1", "2", "1.5", "2", "1"]


def test_scores():
    assert GoldUtilityJudge().scores(ASK, RIGHT) == {"utility": 1.0, "correct": 1.0}
    assert GoldUtilityJudge().scores(ASK, WRONG) == {"utility": pytest.approx(-1.35), "correct": 0.0}


def test_a_question_it_cannot_read_is_an_error():
    with pytest.raises(EvaluationError, match="SandboxPrompts"):
        GoldUtilityJudge().scores("Write a poem.", "no.")


def test_the_judge_yaml_names_it(conf):
    assert build(conf("judge/gold_utility.yaml"), Judge, "evaluation.judge") == GoldUtilityJudge()


def test_through_alpaca_eval_the_win_rate_is_that_of_the_utilities(tmp_path):
    prompts = SandboxPrompts(count=40).load(Feedback("paired", []))
    completions = [row.reference for row in prompts[1:]] + ["i do not know."]
    rows = [
        {"prompt_id": row.id, "prompt": list(row.prompt), "completion": completion, "reference": row.reference}
        for row, completion in zip(prompts, completions, strict=True)
    ]
    judgements, summary = compare(rows, GoldUtilityJudge(), tmp_path)
    for judgement in judgements:
        ours, theirs = judgement["scores"]["utility"], judgement["scores"]["reference_utility"]
        assert judgement["preference"] == (0.5 if ours == theirs else float(ours > theirs))
    assert summary["judge"] == "gold_utility"
    assert 0 < summary["win_rate"] < 0.4
