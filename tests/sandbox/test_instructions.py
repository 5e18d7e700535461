import random

import pytest

from kto_bench.sandbox.instructions import CORES, FAMILIES, Instruction, draw, read
from kto_bench.sandbox.language import WORDS, WRAPPERS, space, spell


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("held_out", [False, True])
def test_every_wording_can_be_read_back(family, held_out):
    rng = random.Random(1)
    for _ in range(40):
        instruction = draw(rng, family, held_out)
        assert (instruction.family, instruction.held_out) == (family, held_out)
        for paraphrase in instruction.paraphrases:
            for wrapper in WRAPPERS:
                spaced = wrapper.format(paraphrase)
                assert set(spaced.split()) <= set(WORDS)
                assert space(spell(spaced)) == spaced
                assert read(spell(spaced)) == instruction


def test_paraphrases_are_plain_english():
    assert [spell(text) for text in Instruction("fact", ("cat", "home")).paraphrases] == [
        "where does the cat live?",
        "tell me the home of the cat.",
        "what is the home of the cat?",
    ]
    assert spell(Instruction("list", ("food", "fish", "two")).paraphrases[0]) == "name two animals that eat fish."
    assert spell(Instruction("list", ("size", "big", "three")).paraphrases[1]) == "which three animals are big?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "what colour is the cat",
        "what colour is the unicorn?",
        "repeat these words: corn.",
        "say corn corn again.",
    ],
)
def test_what_is_no_question_is_not_read(text):
    assert read(text) is None


def test_no_question_can_be_read_as_another():
    texts = [text for cores in CORES.values() for core in cores for text in core.paraphrases]
    assert len(texts) == len(set(texts))


def test_about_one_core_in_five_is_held_out_in_every_family():
    for family in ("fact", "list", "arithmetic", "describe"):
        held_out, asked = len(CORES[family, True]), len(CORES[family, False])
        assert 0.1 < held_out / (held_out + asked) < 0.3
    assert {core.arguments[1] for core in CORES["fact", True]} == {"colour", "home", "food", "size"}


def test_holding_out_depends_on_nothing_but_the_core():
    assert Instruction("fact", ("cat", "colour")).held_out is HELD_OUT["fact"]
    assert Instruction("arithmetic", ("3", "plus", "4")).held_out is HELD_OUT["arithmetic"]


HELD_OUT = {"fact": False, "arithmetic": True}
