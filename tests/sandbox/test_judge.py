import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from places import ROOT

from kto_bench.component import build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.head_to_head import judge as compare
from kto_bench.evaluation.judges.judge import Judge, quote
from kto_bench.feedback.types import Feedback
from kto_bench.sandbox.annotators import ContradictingCrowds, SimulatedAnnotator
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


def test_it_tells_what_the_annotator_perceives():
    """10 tokens more than a plain answer's 5, a unit of utility each ten: 1 - 0 + 1; the preference is that of gold."""
    judge = GoldUtilityJudge(annotator=SimulatedAnnotator(length_bias=1))
    longer = f"{RIGHT} the dog is {FACTS['dog', 'colour']}. the fox is {FACTS['fox', 'colour']}."
    assert judge.scores(ASK, longer) == {"utility": 1.0, "correct": 1.0, "perceived": pytest.approx(2.0)}
    assert judge.scores(ASK, RIGHT) == {"utility": 1.0, "correct": 1.0, "perceived": 1.0}
    assert judge.prefer(ASK, longer, RIGHT) == 1.5
    assert judge.identity()["annotator"]["length_bias"] == 1


def test_of_contradicting_crowds_it_tells_what_either_perceives():
    crowds = ContradictingCrowds(
        majority=SimulatedAnnotator(politeness_bias=0.9), minority=SimulatedAnnotator(politeness_bias=-1.5)
    )
    scores = GoldUtilityJudge(annotator=crowds).scores(ASK, f"sure! {RIGHT}")
    assert scores["utility"] == pytest.approx(1.3)
    assert (scores["majority"], scores["minority"]) == (pytest.approx(2.2), pytest.approx(-0.2))
    assert scores["perceived"] == pytest.approx(0.7 * 2.2 - 0.3 * 0.2)


@pytest.mark.parametrize(
    ("overrides", "labeller"),
    [
        ([], SimulatedAnnotator()),
        (["feedback.annotator.length_bias=0.5"], SimulatedAnnotator(length_bias=0.5)),
        (["feedback=hub", "feedback.hub=x", "evaluation=sandbox"], None),
        (["evaluation.judge.annotator=null"], None),
    ],
)
def test_the_judge_yaml_asks_who_labelled(overrides, labeller):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", overrides).evaluation, resolve=True)["judge"]
    assert build(node, Judge, "evaluation.judge") == GoldUtilityJudge(annotator=labeller)


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
