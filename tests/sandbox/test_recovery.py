import random

import pytest
from scipy.stats import binom

from kto_bench.component import ConfigError
from kto_bench.feedback.annotated import from_choices, from_thumbs
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.feedback import SandboxFeedback, comparisons
from kto_bench.sandbox.likelihood import Answers
from kto_bench.sandbox.recovery import FROM_CHOICES, FROM_THUMBS, main, recover

THUMBS = ("temperature", "loss_aversion", "status_quo", "length_bias", "flattery_bias")
CHOICES = ("temperature", "length_bias", "flattery_bias")
"""Loss aversion is known here: hundreds of choices leave it open towards infinity (docs/annotators.md)."""
TRUTH = SimulatedAnnotator(noise=0.4, temperature=0.6, length_bias=0.4, flattery_bias=0.8)


def thumbs(annotator, shown, seed):
    return Answers.of(from_thumbs(shown, annotator.approve(shown, random.Random(seed))))


def choices(annotator, shown, seed):
    return Answers.of(from_choices(shown, annotator.choose(shown, random.Random(seed))))


def held(ask, free, prompts, cases):
    """How many of the 95% intervals hold the truth, by parameter, when ``prompts`` are labelled anew in each case."""
    shown = comparisons(3, prompts, held_out=False)
    counts = dict.fromkeys(free, 0)
    for case in range(cases):
        estimates = recover(ask(TRUTH, shown, case), TRUTH, free).estimates
        for name in free:
            counts[name] += estimates[name].low <= getattr(TRUTH, name) <= estimates[name].high
    return counts


@pytest.mark.parametrize(
    ("ask", "free", "prompts", "cases"), [(thumbs, THUMBS, 800, 200), (choices, CHOICES, 800, 200)]
)
def test_95_percent_of_the_intervals_hold_the_truth(ask, free, prompts, cases):
    """How many hold is binomial: 99.9% of the studies of an exact method lie within the bounds, for each parameter."""
    counts = held(ask, free, prompts, cases)
    low, high = binom.ppf([0.0005, 0.9995], cases, 0.95)
    assert all(low <= count <= high for count in counts.values()), counts


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


@pytest.mark.parametrize(("feedback", "free"), [("sandbox", FROM_CHOICES), ("sandbox_binary", FROM_THUMBS)])
def test_the_command(feedback, free, capsys):
    main([f"feedback={feedback}", "feedback.pairs=1500"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("3000 answers" if feedback == "sandbox_binary" else "1500 answers")
    assert [line.split()[0] for line in lines[2:]] == list(free)
    main([f"feedback={feedback}", "feedback.pairs=1500", "--free", "temperature", "loss_aversion"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["temperature", "loss_aversion"]


def test_only_known_annotators_are_recovered(capsys):
    with pytest.raises(SystemExit):
        main(["annotator@feedback.annotator=contradicting_crowds"])
    assert "ContradictingCrowds" in capsys.readouterr().err
