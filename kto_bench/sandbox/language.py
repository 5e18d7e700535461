"""How the sandbox speaks: plain lower-case English of fewer than 200 words.

Inside the package a text is *spaced*: its words and punctuation marks are separated by single spaces ("the cat is
red ."), so that ``text.split()`` are its tokens. ``spell`` turns a spaced text into ordinary spelling ("the cat is
red.") and ``space`` is its inverse, which reads any text at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kto_bench.sandbox.world import ANIMALS, NUMBERS, VALUES

MARKS = (".", ",", "?", "!", ":")
COUNTS = {"two": 2, "three": 3}
CONTENT_WORDS = (*VALUES["home"], *VALUES["food"])
"""The words that instructions about words (repeat, reverse, last) are made of."""

PHRASES: dict[str, tuple[str, ...]] = {
    "polite": ("sure !", "of course .", "happy to help !", "good question .", "thanks for asking ."),
    "filler": (
        "let me think about this .",
        "that is a common question .",
        "there is much to say here .",
        "i have heard about this before .",
        "many people want to know this .",
        "well , where do i start ?",
    ),
    "rude": ("that is a silly question .", "you should know this .", "go away .", "do not waste my time ."),
    "refusal": ("i do not know .", "i can not help with that ."),
}
"""Whole sentences that claim nothing, by what they express."""

PREDICATES: dict[str, tuple[str, str]] = {
    {"home": f"live in the {value}", "food": f"eat {value}"}.get(attribute, f"are {value}"): (attribute, value)
    for attribute, values in VALUES.items()
    for value in values
}
"""What several animals have in common ("live in the cave") -> (attribute, value)."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "colour": (
        "what colour is the {animal} ?",
        "tell me the colour of the {animal} .",
        "which colour does the {animal} have ?",
    ),
    "size": ("how big is the {animal} ?", "tell me the size of the {animal} .", "what size is the {animal} ?"),
    "home": (
        "where does the {animal} live ?",
        "tell me the home of the {animal} .",
        "what is the home of the {animal} ?",
    ),
    "food": (
        "what does the {animal} eat ?",
        "tell me the food of the {animal} .",
        "what food does the {animal} like ?",
    ),
    "list": (
        "name {count} animals that {predicate} .",
        "which {count} animals {predicate} ?",
        "tell me {count} animals that {predicate} .",
    ),
    "arithmetic": ("what is {sum} ?", "work out {sum} .", "tell me what {sum} is ."),
    "repeat": ("repeat these words : {words} .", "say {words} again .", "copy the words {words} ."),
    "reverse": ("reverse these words : {words} .", "say {words} backwards .", "turn around the words {words} ."),
    "last": (
        "what is the last word of {words} ?",
        "which word comes last in {words} ?",
        "tell me the last word of {words} .",
    ),
    "describe": ("describe the {animal} .", "tell me about the {animal} .", "what do you know about the {animal} ?"),
}
"""How questions are asked, by family; those about one fact by its attribute. In braces: what the question is about."""

WRAPPERS = ("{}", "please {}", "{} thanks .", "hello , {}", "i have a question : {}")


def _words_of(*texts: str) -> list[str]:
    return [word for text in texts for word in text.split() if not word.startswith("{")]


WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *MARKS,
            *_words_of("the it is lives in eats and plus minus again backwards last word of answer"),
            *(word for templates in TEMPLATES.values() for word in _words_of(*templates)),
            *_words_of(*WRAPPERS, *PREDICATES),
            *(word for phrases in PHRASES.values() for word in _words_of(*phrases)),
            *COUNTS,
            *ANIMALS,
            *(value for values in VALUES.values() for value in values),
            *NUMBERS,
        ]
    )
)
"""Every word and mark of the language, each one token of the sandbox's tokenizer."""

_KNOWN = frozenset(WORDS)
_UNIT = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
_SPACE_BEFORE_MARK = re.compile(r" (?=[.,?!:](?: |$))")


def spell(spaced: str) -> str:
    """Ordinary spelling of a spaced text: no space before a punctuation mark."""
    return _SPACE_BEFORE_MARK.sub("", spaced)


def units(text: str) -> list[str]:
    """The words, numerals and other characters of any text, in lower case."""
    return _UNIT.findall(text.lower())


def space(text: str) -> str:
    """The spaced form of any text; inverse of ``spell`` on texts of the language."""
    return " ".join(units(text))


def token_count(words: Sequence[str]) -> int:
    """How many tokens ``words`` take: one for a word of the language, one for each byte of anything else."""
    return sum(1 if word in _KNOWN else len(word.encode("utf-8", "replace")) for word in words)


def claim(subject: str, attribute: str, value: str) -> str:
    """The sentence that says of ``subject`` ("the cat", "it") that its ``attribute`` is ``value``."""
    verb = {"home": "lives in the", "food": "eats"}.get(attribute, "is")
    return f"{subject} {verb} {value} ."


def enumerate_animals(animals: Sequence[str]) -> str:
    """ "the cat , the dog and the fox", without a full stop."""
    named = [f"the {animal}" for animal in animals]
    return " and ".join([*([" , ".join(named[:-1])] if named[:-1] else []), *named[-1:]])
