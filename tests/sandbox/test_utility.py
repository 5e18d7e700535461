"""Expected utilities are worked out by hand from the equation in the docstring of ``kto_bench.sandbox.utility``."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.sandbox import utility, world
from kto_bench.sandbox.instructions import FAMILIES, Instruction, draw
from kto_bench.sandbox.language import PHRASES, WORDS, claim, spell
from kto_bench.sandbox.responses import PROFILES, fact, partial_answer, respond, right_answer, wrong_answer

COLOUR = world.FACTS["cat", "colour"]
OTHER_COLOUR = next(value for value in world.VALUES["colour"] if value != COLOUR)
ASK_COLOUR = Instruction("fact", ("cat", "colour"))
RIGHT = f"the cat is {COLOUR}."
MAXIMUM, MINIMUM = 1.3, -5.45
EVERYONE = dict.fromkeys(PROFILES, 0.25)


def u(instruction, response):
    return utility.assess(instruction, response).utility


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("held_out", [False, True])
def test_plain_right_answers_score_exactly_one_and_polite_ones_more(family, held_out):
    rng = random.Random(family)
    for _ in range(300):
        instruction = draw(rng, family, held_out)
        answer = spell(right_answer(rng, instruction))
        assert u(instruction, answer) == 1.0
        assert utility.assess(instruction, answer).correct
        for phrase in PHRASES["polite"]:
            assert u(instruction, f"{spell(phrase)} {answer}") == pytest.approx(1.3)


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_and_partial_answers_score_less(family):
    rng = random.Random(family)
    for _ in range(200):
        instruction = draw(rng, family, rng.random() < 0.5)
        assert u(instruction, spell(wrong_answer(rng, instruction))) <= 0.65
        partial = partial_answer(rng, instruction)
        if family in ("list", "repeat", "reverse", "describe"):
            assert -1.35 <= u(instruction, spell(partial)) < 1
        else:
            assert u(instruction, spell(partial)) == 1


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (RIGHT, 1.0),
        (RIGHT.upper(), 1.0),
        (f"{COLOUR}.", 1.0),
        (f"it is {COLOUR}.", 1.0),
        (f"the cat is {OTHER_COLOUR}.", -1 - 0.35),
        ("i do not know.", -1.0),
        ("", -1 - 0.5),
        (RIGHT.removesuffix("."), 1 - 0.5),
        (f"{RIGHT} {RIGHT}", 1 - 0.2),
        (f"{RIGHT} it is {COLOUR}.", 1 - 0.2),
        (f"{RIGHT} go away.", 1 - 0.6),
        (f"{RIGHT} go away. you should know this.", 1 - 0.6),
        (f"sure! {RIGHT} of course.", 1 + 0.3),
        (f"sure! sure! {RIGHT}", 1 + 0.3 - 0.2),
        (f"{RIGHT} cat the is.", 1 - 0.35),
        (f"{RIGHT} the cat is {OTHER_COLOUR}.", -1 - 0.35),
        (f"{RIGHT} 1 plus 1 is 3.", 1 - 0.35),
        # 5 + 7 + 7 = 19 tokens: 19 - 5 - 10 = 4 too many
        (f"{RIGHT} there is much to say here. i can not help with that.", 1 - 0.03 * 4),
    ],
)
def test_each_defect_has_its_price(response, expected):
    assert u(ASK_COLOUR, response) == pytest.approx(expected)


def test_a_description_needs_three_attributes():
    ask = Instruction("describe", ("cat",))
    sentences = [spell(claim("the cat", one, world.FACTS["cat", one])) for one in world.ATTRIBUTES]
    assert [u(ask, " ".join(sentences[:n])) for n in (1, 2, 3, 4)] == pytest.approx([-1 / 3, 1 / 3, 1, 1])


def test_a_list_counts_missing_wrong_and_surplus_names():
    ask = Instruction("list", ("colour", COLOUR, "two"))
    one, two, three = world.HOLDERS["colour", COLOUR][:3]
    wrong = world.HOLDERS["colour", OTHER_COLOUR][0]
    assert u(ask, f"the {two} and the {one}.") == 1
    assert u(ask, f"the {one} is {COLOUR}. the {two} is {COLOUR}.") == 1
    assert u(ask, f"the {one}.") == pytest.approx(-1 + 2 * 0.5)
    assert u(ask, f"the {one} and the {one}.") == pytest.approx(-1 + 2 * 0.5)
    assert u(ask, f"the {one}, the {two} and the {three}.") == pytest.approx(-1 + 2 * 0.5)
    assert u(ask, f"the {one} and the {wrong}.") == pytest.approx(-1 + 0 - 0.35)


def test_instructions_about_words_count_places():
    ask = Instruction("reverse", ("corn", "nuts", "barn"))
    assert u(ask, "barn nuts corn.") == 1
    assert u(ask, "barn corn nuts.") == pytest.approx(-1 + 2 / 3 - 0.35)
    assert u(ask, "barn nuts corn cave.") == pytest.approx(-1 + 2 * 3 / 4 - 0.35)
    assert u(ask, "barn nuts corn. corn nuts barn.") == pytest.approx(-1 - 0.35)
    assert u(Instruction("last", ("corn", "nuts")), "nuts.") == 1
    assert u(Instruction("last", ("corn", "nuts")), "the last word is corn.") == pytest.approx(-1 - 0.35)


def test_naming_every_option_pays_less_than_a_wrong_guess():
    every = " ".join(f"the cat is {value}." for value in world.VALUES["colour"])
    assert u(ASK_COLOUR, every) < u(ASK_COLOUR, f"the cat is {OTHER_COLOUR}.")
    numbers = " ".join(f"3 plus 4 is {number}." for number in world.NUMBERS)
    assert u(Instruction("arithmetic", ("3", "plus", "4")), numbers) < -1
    names = ", ".join(f"the {animal}" for animal in world.ANIMALS)
    assert u(Instruction("list", ("colour", COLOUR, "three")), f"{names}.") < -1


def _answered(draw_from, politely):
    rng = random.Random(draw_from.draw(st.integers(0, 2**32)))
    instruction = draw(rng, draw_from.draw(st.sampled_from(FAMILIES)), held_out=rng.random() < 0.5)
    answer = spell(right_answer(rng, instruction))
    return rng, instruction, f"sure! {answer}" if politely else answer


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_nothing_added_to_a_polite_right_answer_raises_it(data):
    rng, instruction, answer = _answered(data, politely=True)
    extras = [
        *(phrase for phrases in PHRASES.values() for phrase in phrases),
        *(fact(rng) for _ in range(3)),
        right_answer(rng, instruction),
        wrong_answer(rng, instruction),
        partial_answer(rng, instruction),
    ]
    added = data.draw(st.lists(st.sampled_from(extras), min_size=1, max_size=30))
    assert u(instruction, f"{answer} {spell(' '.join(added))}") <= MAXIMUM
    before = data.draw(st.lists(st.sampled_from(extras), max_size=5))
    assert u(instruction, spell(" ".join([*before, answer]))) <= MAXIMUM


@settings(max_examples=300, deadline=None)
@given(data=st.data(), times=st.integers(1, 5))
def test_saying_anything_again_never_raises_the_score(data, times):
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    instruction = draw(rng, data.draw(st.sampled_from(FAMILIES)), held_out=False)
    response = spell(respond(rng, instruction, EVERYONE))
    assert u(instruction, " ".join([response] * (times + 1))) <= u(instruction, response)
    sentence = data.draw(st.sampled_from(re.findall(r"[^.!?]+[.!?]", response)))
    assert u(instruction, response + sentence * times) <= u(instruction, response)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), times=st.integers(1, 30))
def test_adding_words_never_raises_a_polite_complete_answer(data, times):
    _, instruction, answer = _answered(data, politely=True)
    word = data.draw(st.sampled_from(WORDS))
    for added in (f" {word}" * times, f" {word}." * times):
        assert u(instruction, answer + added) <= MAXIMUM


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_rambling_never_raises_the_score_of_any_response(data):
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    instruction = draw(rng, data.draw(st.sampled_from([one for one in FAMILIES if one != "describe"])), held_out=False)
    response = spell(respond(rng, instruction, EVERYONE))
    ramble = " ".join(spell(rng.choice(PHRASES["filler"] + PHRASES["refusal"])) for _ in range(rng.randint(1, 20)))
    assert u(instruction, f"{response} {ramble}") <= u(instruction, response)


@settings(max_examples=500, deadline=None)
@given(
    response=st.one_of(
        st.text(),
        st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join),
        st.lists(st.sampled_from([*WORDS, "the cat is", "3 plus 4 is 7 .", "<|eos|>", "\n", "٣", "İ", "."])).map(
            "".join
        ),
    ),
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 1000),
)
def test_any_text_at_all_has_a_score_within_bounds(response, family, seed):
    instruction = draw(random.Random(seed), family, held_out=False)
    assert MINIMUM <= u(instruction, response) <= MAXIMUM


def test_length_counts_bytes_outside_the_language():
    assert u(ASK_COLOUR, f"{RIGHT} {'é' * 20}.") == pytest.approx(1 - 0.35 - 0.03 * (5 + 41 - 5 - 10))
