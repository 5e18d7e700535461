"""What is true in the sandbox: 32 animals, four attributes of each, and small sums.

The facts are drawn once from a fixed seed and are balanced: every colour, home and food belongs to four animals and
every size to eight, so no value can be guessed from its frequency.
"""

from __future__ import annotations

import random
from typing import Any

VERSION = 1
"""Of all that the sandbox generates and how it scores; part of the identity of each of its components. Raise it when a
text, a label or a score changes."""

_NAMES = """
cat dog fox owl bear wolf deer hare mole goat duck frog crow swan crab seal
lion pig hen bee ant bat rat cow horse sheep mouse snake goose eagle tiger camel
"""
ANIMALS = tuple(_NAMES.split())
VALUES: dict[str, tuple[str, ...]] = {
    "colour": ("red", "blue", "green", "yellow", "black", "white", "brown", "grey"),
    "home": ("forest", "river", "cave", "field", "garden", "desert", "house", "barn"),
    "food": ("grass", "fish", "seeds", "berries", "corn", "leaves", "nuts", "bread"),
    "size": ("tiny", "small", "big", "huge"),
}
ATTRIBUTES = tuple(VALUES)
LARGEST_TERM = 6
NUMBERS = tuple(str(number) for number in range(2 * LARGEST_TERM + 1))


def _draw_facts(seed: int) -> dict[tuple[str, str], str]:
    rng = random.Random(seed)
    facts = {}
    for attribute, values in VALUES.items():
        balanced = list(values) * (len(ANIMALS) // len(values))
        rng.shuffle(balanced)
        facts.update({(animal, attribute): value for animal, value in zip(ANIMALS, balanced, strict=True)})
    return facts


FACTS: dict[tuple[str, str], str] = _draw_facts(seed=2024)
"""(animal, attribute) -> value."""

HOLDERS: dict[tuple[str, str], tuple[str, ...]] = {
    (attribute, value): tuple(animal for animal in ANIMALS if FACTS[animal, attribute] == value)
    for attribute, values in VALUES.items()
    for value in values
}
"""(attribute, value) -> the animals of which it is true."""


def result(left: str, sign: str, right: str) -> str:
    """The result of "left plus right" or "left minus right", as a numeral."""
    return str(int(left) + int(right) if sign == "plus" else int(left) - int(right))


def identified(identity: dict[str, Any]) -> dict[str, Any]:
    """A component's identity, together with the version of the sandbox that it belongs to."""
    return {**identity, "sandbox": VERSION}
