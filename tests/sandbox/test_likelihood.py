import random

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from kto_bench.feedback.annotated import from_choices, from_thumbs
from kto_bench.sandbox.agreement import preset
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.feedback import comparisons
from kto_bench.sandbox.likelihood import POSITIVE, Answers, probabilities, with_slopes

BIASED = SimulatedAnnotator(noise=0.4, temperature=0.6, length_bias=0.4, flattery_bias=0.8)


def thumbs(annotator, shown, seed=0):
    return Answers.of(from_thumbs(shown, annotator.approve(shown, random.Random(seed))))


def choices(annotator, shown, seed=0):
    return Answers.of(from_choices(shown, annotator.choose(shown, random.Random(seed))))


@pytest.mark.parametrize("annotator", [BIASED, preset("median_human"), preset("loss_neutral_noisy")])
def test_the_noise_is_integrated_out(annotator):
    """Against adaptive quadrature of the same integral."""
    answers = thumbs(annotator, comparisons(4, 10, held_out=False))
    sure, swing = annotator.perceived(answers.seen), answers.seen.swing
    for place, found in enumerate(probabilities(annotator, answers)):

        def integrand(e, place=place):
            value = annotator.value(np.array(sure[place] + annotator.noise * e - annotator.status_quo), swing[place])
            return norm.pdf(e) / (1 + np.exp(-value / annotator.temperature))

        assert found == pytest.approx(quad(integrand, -8, 8, limit=200)[0], abs=2e-4)


@pytest.mark.parametrize("point", ["status_quo", "prompt_average"])
def test_probabilities_of_choices_are_the_annotators_own(point):
    annotator = BIASED.model_copy(update={"reference_point": point, "doubt": 0.1, "probability_weighting": 0.61})
    pair = comparisons(5, 1, held_out=False)
    answers = choices(annotator, pair * 20_000, 1)
    assert answers.yes / answers.count == pytest.approx(probabilities(annotator, answers), abs=0.015)


@pytest.mark.parametrize(
    ("ask", "point"),
    [
        (thumbs, "status_quo"),
        (thumbs, "policy_average"),
        (choices, "status_quo"),
        (choices, "policy_average"),
        (choices, "prompt_average"),
    ],
)
def test_derivatives(ask, point):
    """Against differences of probabilities; those of positive parameters are by the logarithm."""
    annotator = preset("median_human").model_copy(update={"reference_point": point, "risk_aversion_losses": 0.8})
    answers = ask(annotator, comparisons(4, 60, held_out=False))
    free = (*POSITIVE, "length_bias", "politeness_bias", "flattery_bias", "confidence_bias")
    free += ("status_quo",) if point == "status_quo" else ()
    _, slopes = with_slopes(annotator, answers, free)
    for name, found in zip(free, slopes, strict=True):
        at = getattr(annotator, name)
        ends = [at * np.exp(step) if name in POSITIVE else at + step for step in (1e-3, -1e-3)]
        up, down = (probabilities(annotator.model_copy(update={name: end}), answers) for end in ends)
        assert found == pytest.approx((up - down) / 2e-3, abs=2e-3), name
        assert name == "politeness_bias" or np.abs(found).max() > 5e-3, name


def test_answers_are_counted_and_which_was_first_does_not_matter():
    shown = comparisons(6, 50, held_out=False)
    turned = [type(one)(one.id, one.prompt, one.completions[::-1]) for one in shown]
    both = from_choices(shown + turned, [True] * 50 + [False] * 50)
    answers = Answers.of(both)
    assert answers.count.sum() == 100
    assert set(answers.yes / answers.count) <= {0.0, 1.0} or len(answers.count) < 50
