import random

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, norm

from kto_bench.component import ConfigError
from kto_bench.feedback.annotated import from_choices, from_thumbs
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.feedback import SandboxFeedback, comparisons
from kto_bench.sandbox.likelihood import Answers, probabilities, with_slopes
from kto_bench.sandbox.recovery import main, recover

CASES = 200
THUMBS = ("temperature", "loss_aversion", "status_quo", "length_bias", "flattery_bias")
CHOICES = ("temperature", "loss_aversion", "length_bias", "flattery_bias")
TRUTH = SimulatedAnnotator(noise=0.4, temperature=0.6, length_bias=0.4, flattery_bias=0.8)


def thumbs(annotator, shown, seed):
    return Answers.of(from_thumbs(shown, annotator.approve(shown, random.Random(seed))))


def choices(annotator, shown, seed):
    return Answers.of(from_choices(shown, annotator.choose(shown, random.Random(seed))))


@pytest.mark.parametrize(("ask", "free", "cases"), [(thumbs, THUMBS, CASES), (choices, CHOICES, 25)])
def test_95_percent_of_the_intervals_hold_the_truth(ask, free, cases):
    """In each case 800 prompts are labelled anew. How many intervals hold is binomial: 99.9% of the studies of an
    exact method lie within the bounds, for each parameter and, taken as independent, over all."""
    shown = comparisons(3, 800, held_out=False)
    held = dict.fromkeys(free, 0)
    for case in range(cases):
        estimates = recover(ask(TRUTH, shown, case), TRUTH, free).estimates
        for name in free:
            held[name] += estimates[name].low <= getattr(TRUTH, name) <= estimates[name].high
    low, high = binom.ppf([0.0005, 0.9995], cases, 0.95)
    assert all(low <= count <= high for count in held.values()), held
    low = binom.ppf(0.0005, cases * len(free), 0.95)
    assert sum(held.values()) >= low, held


def test_the_noise_is_integrated_out():
    """Against adaptive quadrature of the same integral."""
    answers = thumbs(TRUTH, comparisons(4, 20, held_out=False), 0)
    found = probabilities(TRUTH, answers)
    for place in range(10):

        def integrand(e, place=place):
            sure = TRUTH.perceived(answers.seen)[place]
            value = TRUTH.value(np.array(sure + TRUTH.noise * e - TRUTH.status_quo), answers.seen.swing[place])
            return norm.pdf(e) / (1 + np.exp(-value / TRUTH.temperature))

        assert found[place] == pytest.approx(quad(integrand, -8, 8, limit=200)[0], abs=6e-3)


@pytest.mark.parametrize("point", ["status_quo", "prompt_average"])
def test_probabilities_of_choices_are_the_annotators_own(point):
    annotator = TRUTH.model_copy(update={"reference_point": point, "doubt": 0.1, "probability_weighting": 0.61})
    pair = comparisons(5, 1, held_out=False)
    answers = choices(annotator, pair * 20_000, 1)
    assert answers.yes / answers.count == pytest.approx(probabilities(annotator, answers), abs=0.015)


def test_answers_are_counted_and_which_was_first_does_not_matter():
    shown = comparisons(6, 50, held_out=False)
    turned = [type(one)(one.id, one.prompt, one.completions[::-1]) for one in shown]
    both = from_choices(shown + turned, [True] * 50 + [False] * 50)
    answers = Answers.of(both)
    assert answers.count.sum() == 100
    assert set(answers.yes / answers.count) <= {0.0, 1.0} or len(answers.count) < 50


@pytest.mark.parametrize(
    ("changes", "free", "message"),
    [
        ({}, ["noise", "temperature"], "both blur"),
        ({}, ["probability_weighting"], "doubt is 0"),
        ({}, ["doubt"], "'doubt' cannot be estimated; allowed: noise"),
        ({"reference_point": "last_seen"}, ["loss_aversion"], "depend on each other"),
        ({"reference_point": "prompt_average"}, ["loss_aversion", "temperature"], r"\(1 \+ loss_aversion\)"),
        ({"reference_point": "policy_average"}, ["status_quo"], "not used"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(changes, free, message):
    annotator = SimulatedAnnotator(**changes)
    with pytest.raises(ConfigError, match=message):
        recover(Answers.of(SandboxFeedback(pairs=30).load()), annotator, free)


def test_the_command(capsys):
    main(["feedback=sandbox_binary", "feedback.pairs=1500", "--free", "temperature", "loss_aversion"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("3000 answers")
    assert [line.split()[0] for line in lines[2:]] == ["temperature", "loss_aversion"]
    with pytest.raises(SystemExit):
        main(["annotator@feedback.annotator=contradicting_crowds"])
    assert "ContradictingCrowds" in capsys.readouterr().err
