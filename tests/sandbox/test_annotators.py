import math
import random
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from places import ROOT

from kto_bench.component import ConfigError, build
from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.feedback.types import FeedbackSource
from kto_bench.sandbox.annotators import ContradictingCrowds, SimulatedAnnotator
from kto_bench.sandbox.feedback import comparisons
from kto_bench.sandbox.world import FACTS, VALUES

LINEAR = SimulatedAnnotator(noise=0, risk_aversion=1, loss_aversion=1, status_quo=0)
ASK = ({"role": "user", "content": "what colour is the cat?"},)
RIGHT = f"the cat is {FACTS['cat', 'colour']}."  # 1
POLITE = f"sure! {RIGHT}"  # 1.3
WRONG = next(f"the cat is {value}." for value in VALUES["colour"] if value != FACTS["cat", "colour"])  # -1.35
REFUSAL = "i do not know."  # -1
MANY = 20_000
"""Answers; the standard error of a share is 0.35 points at most."""


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def asked(*completions, times=1):
    return [Candidates(f"{number}", ASK, completions) for number in range(times)]


def up(annotator, completion, seed=0):
    return fmean(thumb for (thumb,) in annotator.approve(asked(completion, times=MANY), random.Random(seed)))


def first(annotator, one, other, seed=0):
    return fmean(annotator.choose(asked(one, other, times=MANY), random.Random(seed)))


def test_probabilities_of_a_thumb_and_of_a_choice():
    exact = SimulatedAnnotator(noise=0)  # status quo 0.3, alpha 0.88, lambda 2.25, temperature 0.35
    assert up(exact, RIGHT) == pytest.approx(sigmoid(0.7**0.88 / 0.35), abs=0.012)
    hot = SimulatedAnnotator(noise=0, temperature=3)
    assert up(hot, WRONG) == pytest.approx(sigmoid(-2.25 * 1.65**0.88 / 3), abs=0.012)
    assert first(exact, RIGHT, POLITE) == pytest.approx(sigmoid((0.7**0.88 - 1.0) / 0.35), abs=0.012)
    assert first(hot, WRONG, REFUSAL) == pytest.approx(sigmoid(-0.75 * (1.65**0.88 - 1.3**0.88)), abs=0.012)


def test_the_probit_rule():
    probit = LINEAR.model_copy(update={"choice_rule": "probit", "temperature": 2})
    assert first(probit, RIGHT, REFUSAL) == pytest.approx(NormalDist().cdf(1), abs=0.012)


def test_noise_is_about_what_is_perceived():
    """With a probit rule noise adds up: a thumb is up where 1 + 0.8 e + 0.6 e' > 0."""
    noisy = LINEAR.model_copy(update={"choice_rule": "probit", "temperature": 0.6, "noise": 0.8})
    assert up(noisy, RIGHT) == pytest.approx(NormalDist().cdf(1), abs=0.012)
    assert first(noisy, RIGHT, POLITE) == pytest.approx(NormalDist().cdf(-0.3 / math.sqrt(2 * 0.64 + 0.36)), abs=0.012)


def test_losses_may_be_curved_otherwise_than_gains():
    human = SimulatedAnnotator(noise=0, risk_aversion=1, risk_aversion_losses=0.5, status_quo=0, temperature=2)
    assert up(human, WRONG) == pytest.approx(sigmoid(-2.25 * math.sqrt(1.35) / 2), abs=0.012)


def test_doubt_is_weighted():
    """Taken for right (1), wrong with probability 0.1 (-1), which counts as 0.186 of a loss and 0.712 of a gain."""
    doubtful = LINEAR.model_copy(update={"doubt": 0.1, "temperature": 1.0})
    assert up(doubtful, RIGHT) == pytest.approx(sigmoid(0.9 - 0.1), abs=0.012)
    weighted = doubtful.model_copy(update={"probability_weighting": 0.61})
    assert up(weighted, RIGHT) == pytest.approx(sigmoid(0.712 - 0.186), abs=0.012)


@pytest.mark.parametrize(
    ("bias", "preferred", "other"),
    [
        ("length_bias", f"{RIGHT} the dog is {FACTS['dog', 'colour']}.", RIGHT),
        ("politeness_bias", f"sure! {WRONG}", REFUSAL),
        ("flattery_bias", f"good question. {WRONG}", REFUSAL),
        ("confidence_bias", WRONG, REFUSAL),
    ],
)
def test_biases_change_what_is_preferred(bias, preferred, other):
    cold = LINEAR.model_copy(update={"temperature": 1e-3})
    assert cold.choose(asked(preferred, other), random.Random(0)) == [False]
    assert cold.model_copy(update={bias: 2.0}).choose(asked(preferred, other), random.Random(0)) == [True]


def test_reference_points():
    """Cold and linear: a thumb says whether it is above the reference point."""
    shown = [*asked(RIGHT, POLITE), *asked(WRONG, REFUSAL), *asked(RIGHT, RIGHT)]

    def thumbs(point):
        cold = LINEAR.model_copy(update={"temperature": 1e-6, "reference_point": point, "status_quo": 1.1})
        return cold.approve(shown, random.Random(1))

    assert thumbs("status_quo") == [[False, True], [False, False], [False, False]]
    assert [row[:2] for row in thumbs("prompt_average")][:2] == [[False, True], [False, True]]
    seen = thumbs("last_seen")  # against 1.1, 1, 1.3, -1.35, -1; the last equals what it follows
    assert (seen[0], seen[1], seen[2][0]) == ([False, True], [False, True], True)
    assert thumbs("policy_average") == [[True, True], [False, False], [True, True]]  # mean 0.325


def test_the_prompt_average_makes_a_gain_of_one_and_a_loss_of_the_other():
    human = SimulatedAnnotator(noise=0, reference_point="prompt_average", temperature=1)
    strength = 3.25 * 0.15**0.88
    assert first(human, POLITE, RIGHT) == pytest.approx(sigmoid(strength), abs=0.012)


def test_ratings_follow_the_thresholds():
    """P(rating > k) = F((v - t_k) / tau)."""
    rater = LINEAR.model_copy(update={"temperature": 1.0, "rating_thresholds": (-1.0, 0.0, 2.0)})
    ratings = [rating for (rating,) in rater.rate(asked(RIGHT, times=MANY), random.Random(3))]
    shares = [fmean(rating > level for rating in ratings) for level in (1, 2, 3)]
    assert shares == pytest.approx([sigmoid(2), sigmoid(1), sigmoid(-1)], abs=0.012)
    assert set(ratings) == {1, 2, 3, 4}


def test_a_thumb_is_a_rating_above_a_threshold_at_zero():
    human = SimulatedAnnotator(rating_thresholds=(-1.0, 0.0, 1.0))
    shown = comparisons(5, 300, held_out=False)
    ratings = human.rate(shown, random.Random(4))
    assert human.approve(shown, random.Random(4)) == [[rating > 2 for rating in own] for own in ratings]


def test_extreme_values_do_not_overflow():
    cold = SimulatedAnnotator(noise=0, temperature=1e-6)
    assert cold.choose(asked(POLITE, WRONG), random.Random(0)) == [True]
    assert cold.choose(asked(WRONG, POLITE), random.Random(0)) == [False]
    assert cold.approve(asked(WRONG), random.Random(0)) == [[False]]


def test_only_pairs_are_chosen_from():
    with pytest.raises(ValueError, match="prompt '0' has 3 completions"):
        LINEAR.choose(asked(RIGHT, WRONG, POLITE), random.Random(0))


def test_an_empty_sitting_has_no_answers():
    for point in ("status_quo", "prompt_average", "last_seen", "policy_average"):
        annotator = LINEAR.model_copy(update={"reference_point": point})
        assert annotator.approve([], random.Random(0)) == annotator.choose([], random.Random(0)) == []
        assert annotator.rate(asked(), random.Random(0)) == [[]]


@given(st.floats(0, 2), st.floats(0.05, 3), st.floats(1, 4), st.sampled_from(["status_quo", "prompt_average"]))
def test_choosing_among_the_same_two_in_the_other_order_is_the_other_answer_on_average(noise, heat, aversion, point):
    annotator = SimulatedAnnotator(noise=noise, temperature=heat, loss_aversion=aversion, reference_point=point)
    one = fmean(annotator.choose(asked(RIGHT, WRONG, times=400), random.Random(1)))
    other = fmean(annotator.choose(asked(WRONG, RIGHT, times=400), random.Random(2)))
    assert one + other == pytest.approx(1, abs=0.15)  # 3 standard errors


def test_the_luck_of_a_sitting_is_that_of_any_annotator():
    """Raising a threshold of everything can only turn answers one way, since the luck is the same."""
    shown = comparisons(6, 400, held_out=False)
    strict = SimulatedAnnotator(status_quo=0.8)
    before = np.array(SimulatedAnnotator().approve(shown, random.Random(1)))
    after = np.array(strict.approve(shown, random.Random(1)))
    assert (after <= before).all()
    assert (after < before).any()
    rng, other = random.Random(1), random.Random(1)
    SimulatedAnnotator(noise=0, reference_point="last_seen").approve(shown, rng)
    strict.approve(shown, other)
    assert rng.getstate() == other.getstate()


CROWDS = ContradictingCrowds(
    majority=LINEAR.model_copy(update={"politeness_bias": 0.9, "temperature": 1e-3}),
    minority=LINEAR.model_copy(update={"politeness_bias": -1.5, "temperature": 1e-3}),
    majority_share=0.8,
)


def test_crowds_answer_their_shares():
    assert first(CROWDS, POLITE, RIGHT) == pytest.approx(0.8, abs=0.01)
    everyone = CROWDS.model_copy(update={"majority_share": 1.0})
    assert first(everyone, POLITE, RIGHT) == 1


def test_a_crowd_answers_whole_prompts_or_single_labels():
    shown = asked(f"sure! {REFUSAL}", "thanks for asking. i do not know.", times=4000)  # 0.2 to the majority only
    whole = CROWDS.approve(shown, random.Random(2))
    assert {tuple(row) for row in whole} == {(True, True), (False, False)}
    single = CROWDS.model_copy(update={"answered_by": "label"}).approve(shown, random.Random(2))
    mixed = fmean(one != other for one, other in single)
    assert mixed == pytest.approx(2 * 0.8 * 0.2, abs=0.03)


def test_the_answers_of_a_crowd_are_what_it_alone_would_say():
    shown = comparisons(7, 500, held_out=False)
    crowds = ContradictingCrowds(majority=SimulatedAnnotator(), minority=SimulatedAnnotator(politeness_bias=-2))
    for question in ("choose", "approve", "rate"):
        alone = [getattr(one, question)(shown, random.Random(3)) for one in (crowds.majority, crowds.minority)]
        mixed = getattr(crowds, question)(shown, random.Random(3))
        assert all(answer in both for answer, *both in zip(mixed, *alone, strict=True))
        share = fmean(answer == one for answer, one, other in zip(mixed, *alone, strict=True) if one != other)
        assert share == pytest.approx(0.7, abs=0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("probability_weighting=0.2", "annotator.probability_weighting: 0.2 is not allowed"),
        ("rating_thresholds=[1,0]", "give one rising number or more"),
        ("reference_point=average", "'average' is not allowed.*policy_average"),
        ("loss_aversoin=2", "did you mean 'loss_aversion'"),
    ],
)
def test_what_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        compose_feedback(f"+feedback.annotator.{override}" if "soin" in override else f"feedback.annotator.{override}")


def compose_feedback(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", list(overrides)).feedback, resolve=True)
    return build(node, FeedbackSource, "feedback")


def test_a_preset_is_chosen_on_the_command_line():
    source = compose_feedback("annotator@feedback.annotator=median_human", "feedback.annotator.loss_aversion=3")
    assert source.annotator.name == "median_human"
    assert (source.annotator.loss_aversion, source.annotator.probability_weighting) == (3, 0.61)
    crowds = compose_feedback(
        "feedback=sandbox_binary",
        "annotator@feedback.annotator=contradicting_crowds",
        "annotator@feedback.annotator.minority=length_biased",
        "feedback.annotator.minority.name=minority",
    ).annotator
    assert isinstance(crowds, ContradictingCrowds)
    assert crowds.minority.identity() != crowds.majority.identity()


def test_identities():
    usual = compose_feedback()
    assert usual.annotator == SimulatedAnnotator()
    assert usual.identity()["annotator"]["sandbox"] == usual.identity()["sandbox"]
    assert "name" not in usual.identity()["annotator"]
    identities = [
        compose_feedback(f"annotator@feedback.annotator={path.stem}").identity()
        for path in sorted((ROOT / "conf/annotator").glob("*.yaml"))
    ]
    assert len({str(one) for one in identities}) == len(identities) >= 7


def test_they_answer_to_the_interface():
    assert issubclass(SimulatedAnnotator, Annotator)
    assert issubclass(ContradictingCrowds, Annotator)
    shown = [*asked(POLITE, RIGHT), *asked(WRONG)]
    scores = LINEAR.model_copy(update={"politeness_bias": 0.5}).scores(shown)
    assert [[one["perceived"] for one in own] for own in scores] == [pytest.approx([1.8, 1.0]), pytest.approx([-1.35])]
