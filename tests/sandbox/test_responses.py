import random
from statistics import mean

import pytest

from kto_bench.sandbox.instructions import FAMILIES, draw
from kto_bench.sandbox.language import WORDS, space, spell
from kto_bench.sandbox.responses import PROFILES, respond
from kto_bench.sandbox.utility import assess


def sample(profile, family, number=400):
    rng = random.Random(f"{profile} {family}")
    for _ in range(number):
        instruction = draw(rng, family, held_out=False)
        yield instruction, respond(rng, instruction, {profile: 1.0})


@pytest.mark.parametrize("family", FAMILIES)
def test_profiles_are_ordered_in_every_family(family):
    means = {
        profile: mean(assess(instruction, spell(text)).utility for instruction, text in sample(profile, family))
        for profile in PROFILES
    }
    assert means["good"] > 0.8 > 0.5 > means["mid"] > -0.2 > max(means["bad"], means["terse"])


@pytest.mark.parametrize("profile", PROFILES)
def test_responses_are_in_the_language(profile):
    for family in FAMILIES:
        for _, text in sample(profile, family, 100):
            assert set(text.split()) <= set(WORDS)
            assert space(spell(text)) == text


def test_bad_responses_are_long_and_terse_ones_short():
    lengths = {
        profile: mean(len(text.split()) for family in FAMILIES for _, text in sample(profile, family))
        for profile in PROFILES
    }
    assert lengths["terse"] < lengths["good"] - 2 < lengths["good"] + 2 < lengths["bad"]
