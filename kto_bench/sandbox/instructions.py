"""What can be asked in the sandbox, in which words, and which questions are held out.

A question's *core* is its family and its arguments. Held out is decided by core, so a held-out question is never asked
in training in any paraphrase or wrapping. The facts that it asks about may be stated in plain text.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

from kto_bench.sandbox.language import CONTENT_WORDS, COUNTS, PREDICATES, TEMPLATES, WRAPPERS, space
from kto_bench.sandbox.world import ANIMALS, ATTRIBUTES, HOLDERS, LARGEST_TERM, NUMBERS

FAMILIES = ("fact", "list", "arithmetic", "repeat", "reverse", "last", "describe")
WORD_FAMILIES = ("repeat", "reverse", "last")


@dataclass(frozen=True)
class Instruction:
    """A question without its wording.

    ``arguments`` by family: fact (animal, attribute); list (attribute, value, count); arithmetic (left, sign, right);
    repeat, reverse and last: two or three distinct words; describe (animal,).
    """

    family: str
    arguments: tuple[str, ...]

    @cached_property
    def held_out(self) -> bool:
        """Whether this core is kept out of training: one in five, by a hash that no seed changes."""
        return zlib.crc32(" ".join([self.family, *self.arguments]).encode()) % 5 == 0

    @cached_property
    def paraphrases(self) -> tuple[str, ...]:
        """The question in all its phrasings, spaced, without wrapping."""
        first, *others = self.arguments
        if self.family == "fact":
            return tuple(template.format(animal=first) for template in TEMPLATES[others[0]])
        slots = {"animal": first, "words": " ".join(self.arguments), "sum": " ".join(self.arguments)}
        if self.family == "list":
            slots["count"] = others[1]
            slots["predicate"] = next(text for text, pair in PREDICATES.items() if pair == (first, others[0]))
        return tuple(template.format(**slots) for template in TEMPLATES[self.family])

    def wording(self, rng: random.Random) -> str:
        """The question in a random phrasing and wrapping, spaced."""
        return rng.choice(WRAPPERS).format(rng.choice(self.paraphrases))


def _finite_cores() -> dict[str, list[Instruction]]:
    arguments: dict[str, list[tuple[str, ...]]] = {
        "fact": [(animal, attribute) for animal in ANIMALS for attribute in ATTRIBUTES],
        "list": [(attribute, value, count) for attribute, value in HOLDERS for count in COUNTS],
        "arithmetic": [
            (left, sign, right)
            for left in NUMBERS[: LARGEST_TERM + 1]
            for right in NUMBERS[: LARGEST_TERM + 1]
            for sign in ("plus", "minus")
            if sign == "plus" or int(left) >= int(right)
        ],
        "describe": [(animal,) for animal in ANIMALS],
    }
    return {family: [Instruction(family, one) for one in many] for family, many in arguments.items()}


_CORES = _finite_cores()
CORES: dict[tuple[str, bool], tuple[Instruction, ...]] = {
    (family, held_out): tuple(core for core in cores if core.held_out is held_out)
    for family, cores in _CORES.items()
    for held_out in (False, True)
}
"""(family, held out) -> the questions of the families whose questions can be counted."""


def draw(rng: random.Random, family: str, held_out: bool) -> Instruction:
    """A random question of ``family``, from the held-out cores or from the others."""
    if family in WORD_FAMILIES:
        while True:
            found = Instruction(family, tuple(rng.sample(CONTENT_WORDS, rng.choice((2, 3)))))
            if found.held_out is held_out:
                return found
    return rng.choice(CORES[family, held_out])


_COUNTABLE = {text: core for cores in _CORES.values() for core in cores for text in core.paraphrases}
_ABOUT_WORDS = [(family, *template.split("{words}")) for family in WORD_FAMILIES for template in TEMPLATES[family]]


@lru_cache(maxsize=65536)
def read(text: str) -> Instruction | None:
    """The question that ``text`` asks, in any of its phrasings and wrappings; None when it is no sandbox question."""
    spaced = space(text)
    for wrapper in WRAPPERS:
        before, after = wrapper.split("{}")
        if spaced.startswith(before) and spaced.endswith(after):
            found = _read_bare(spaced.removeprefix(before).removesuffix(after))
            if found:
                return found
    return None


def _read_bare(spaced: str) -> Instruction | None:
    for family, before, after in _ABOUT_WORDS:
        if spaced.startswith(before) and spaced.endswith(after):
            words = tuple(spaced.removeprefix(before).removesuffix(after).split())
            if len(words) in (2, 3) and len(set(words)) == len(words) and set(words) <= set(CONTENT_WORDS):
                return Instruction(family, words)
    return _COUNTABLE.get(spaced)
