"""The gold utility: how good a response really is, known exactly because the sandbox can read it.

    u = -1 + 2q - 0.35 min(F, 3) - 0.35 min(G, 2) - 0.2 min(R, 3) - min(1, 0.03 E) + 0.3 P - 0.6 I - 0.5 C

q in [0, 1]: completeness of the answer; F: distinct false claims; G: garbled sentences; R: sentences that say again
what was said; E: tokens beyond those of a plain right answer plus 10; P: polite; I: insulting; C: cut off (the last
sentence has no end). P, I and C are 0 or 1. A plain right answer has u = 1, a polite one 1.3, which is the maximum;
the minimum is -5.45.

Hedging does not pay: two different answers to one question are no answer (q = 0), and names beyond those asked for
count against a list, so neither repetition nor rambling nor naming every option can raise u.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from kto_bench.sandbox.instructions import WORD_FAMILIES, Instruction
from kto_bench.sandbox.language import CONTENT_WORDS, COUNTS, PHRASES, token_count, units
from kto_bench.sandbox.world import ANIMALS, ATTRIBUTES, FACTS, HOLDERS, VALUES, result

FREE_TOKENS = 10
DESCRIPTION_CLAIMS = 3
"""How many attributes a complete description names."""

Reading = tuple[str, ...]
"""What a sentence says: ("phrase", kind, text), ("claim", animal, attribute, value), ("names", animal, ...),
("sum", left, sign, right, result), ("words", word, ...) or ("last", word)."""


@dataclass(frozen=True)
class Assessment:
    """What the gold utility sees in a response; the names are those of the equation above."""

    completeness: float
    false_claims: int
    garbled: int
    repeats: int
    excess: int
    polite: bool
    insulting: bool
    cut_off: bool

    @property
    def correct(self) -> bool:
        """Whether the question is answered completely and correctly."""
        return self.completeness == 1

    @property
    def utility(self) -> float:
        """u of the equation above."""
        return (
            -1
            + 2 * self.completeness
            - 0.35 * min(self.false_claims, 3)
            - 0.35 * min(self.garbled, 2)
            - 0.2 * min(self.repeats, 3)
            - min(1.0, 0.03 * self.excess)
            + 0.3 * self.polite
            - 0.6 * self.insulting
            - 0.5 * self.cut_off
        )


def assess(instruction: Instruction, response: str) -> Assessment:
    """Read any text as a response to ``instruction``."""
    words = units(response)
    sentences, cut_off = sentences_of(words)
    said: set[Reading] = set()
    understood = garbled = 0
    subject = instruction.arguments[0] if instruction.family in ("fact", "describe") else None
    different = dict.fromkeys(sentences)  # said word for word again, a sentence adds nothing, whatever "it" is by then
    for text in different:
        reading = _read(text, subject, instruction)
        if reading is None:
            garbled += 1
            continue
        understood += 1
        said.add(reading)
        if reading[0] == "claim":
            subject = reading[1]
    repeats = len(sentences) - len(different) + understood - len(said)
    expressed = {reading[1] for reading in said if reading[0] == "phrase"}
    return Assessment(
        completeness=_completeness(instruction, said),
        false_claims=sum(_false_parts(instruction, reading) for reading in said),
        garbled=garbled,
        repeats=repeats,
        excess=max(0, token_count(words) - plain_length(instruction) - FREE_TOKENS),
        polite="polite" in expressed,
        insulting="rude" in expressed,
        cut_off=cut_off,
    )


def sentences_of(words: list[str]) -> tuple[list[str], bool]:
    """The sentences without their end marks, and whether the last one has none."""
    sentences: list[str] = []
    current: list[str] = []
    for word in words:
        if word in (".", "!", "?"):
            sentences.append(" ".join(current))
            current = []
        else:
            current.append(word)
    return [*sentences, *([" ".join(current)] if current else [])], bool(current) or not sentences


def _alternatives(options: Iterable[str]) -> str:
    return "(" + "|".join(options) + ")"


_ANIMAL = _alternatives(ANIMALS)
_CLAIM = re.compile(
    rf"(?:the {_ANIMAL}|it) (?:is {_alternatives(VALUES['colour'])}|lives in the {_alternatives(VALUES['home'])}"
    rf"|eats {_alternatives(VALUES['food'])}|is {_alternatives(VALUES['size'])})"
)
_NUMBER = "(0|[1-9][0-9]?)"
_SUM = re.compile(f"{_NUMBER} (plus|minus) {_NUMBER} is {_NUMBER}")
_NAMES = re.compile(rf"the {_ANIMAL}(?: , the {_ANIMAL})*(?: and the {_ANIMAL})?")
_LAST = re.compile(rf"(?:the last word is )?{_alternatives(CONTENT_WORDS)}")
_PHRASES = {phrase[:-2]: ("phrase", kind, phrase[:-2]) for kind, phrases in PHRASES.items() for phrase in phrases}
_CONTENT = frozenset(CONTENT_WORDS)


def _read(text: str, subject: str | None, instruction: Instruction) -> Reading | None:
    """What one sentence says; None when it says nothing that can be understood here."""
    if text in _PHRASES:
        return _PHRASES[text]
    if match := _CLAIM.fullmatch(text):
        animal = match[1] or subject
        attribute, value = next((one, match[place]) for place, one in enumerate(ATTRIBUTES, 2) if match[place])
        return ("claim", animal, attribute, value) if animal else None
    if match := _SUM.fullmatch(text):
        return ("sum", *match.groups())
    return _read_bare(text, instruction)


def _read_bare(text: str, instruction: Instruction) -> Reading | None:
    """A sentence that makes sense only as the answer to the question at hand: "red", "7", "the cat and the dog"."""
    arguments = instruction.arguments
    match instruction.family:
        case "fact":
            value = text.removeprefix("in the ") if arguments[1] == "home" else text
            return ("claim", *arguments, value) if value in VALUES[arguments[1]] else None
        case "arithmetic":
            number = text.removeprefix("the answer is ")
            return ("sum", *arguments, number) if re.fullmatch(_NUMBER, number) else None
        case "list":
            return ("names", *re.findall(_ANIMAL, text)) if _NAMES.fullmatch(text) else None
        case "repeat" | "reverse":
            words = text.split()
            return ("words", *words) if words and _CONTENT.issuperset(words) else None
        case "last":
            found = _LAST.fullmatch(text)
            return ("last", found[1]) if found else None
    return None


def _target(instruction: Instruction) -> Reading:
    """What a response to an instruction about words has to say."""
    words = instruction.arguments
    return {"repeat": ("words", *words), "reverse": ("words", *words[::-1]), "last": ("last", words[-1])}[
        instruction.family
    ]


def _false_parts(instruction: Instruction, reading: Reading) -> int:
    match reading:
        case ("claim", animal, attribute, value):
            return int(FACTS[animal, attribute] != value)
        case ("sum", left, sign, right, number):
            return int(result(left, sign, right) != number)
        case ("names", *animals):
            return len(set(animals) - set(HOLDERS[instruction.arguments[0], instruction.arguments[1]]))
        case ("words" | "last", *_):
            return int(reading != _target(instruction))
    return 0


def _completeness(instruction: Instruction, said: set[Reading]) -> float:
    """q: how much of the question is answered, and answered once."""
    arguments = instruction.arguments
    if instruction.family in WORD_FAMILIES:
        return _match(_target(instruction), [one for one in said if one[0] in ("words", "last")])
    if instruction.family == "arithmetic":
        answers = {one[4] for one in said if one[:4] == ("sum", *arguments)}
        return float(answers == {result(*arguments)})
    claimed: dict[tuple[str, str], set[str]] = {}
    for one in said:
        if one[0] == "claim":
            claimed.setdefault((one[1], one[2]), set()).add(one[3])
    if instruction.family == "fact":
        animal, attribute = arguments
        return float(claimed.get((animal, attribute)) == {FACTS[animal, attribute]})
    if instruction.family == "describe":
        true = sum(claimed.get((arguments[0], one)) == {FACTS[arguments[0], one]} for one in ATTRIBUTES)
        return min(true, DESCRIPTION_CLAIMS) / DESCRIPTION_CLAIMS
    attribute, value, count = arguments
    named = {animal for one in said if one[0] == "names" for animal in one[1:]}
    named |= {animal for (animal, about), values in claimed.items() if about == attribute and value in values}
    right = len(named & set(HOLDERS[attribute, value]))
    needed = COUNTS[count]
    too_many = max(0, right - needed) + len(named) - right
    return max(0, min(right, needed) - too_many) / needed


def _match(target: Reading, answers: list[Reading]) -> float:
    """The share of places at which the only answer agrees with the target."""
    if len(answers) != 1:
        return 0.0
    agree = sum(one == other for one, other in zip(answers[0][1:], target[1:], strict=False))
    return agree / (max(len(answers[0]), len(target)) - 1)


def plain_length(instruction: Instruction) -> int:
    """Tokens of a plain right answer."""
    match instruction.family:
        case "fact":
            return 7 if instruction.arguments[1] == "home" else 5
        case "list":
            return {"two": 6, "three": 9}[instruction.arguments[2]]
        case "repeat" | "reverse":
            return len(instruction.arguments) + 1
        case "describe":
            return 15
    return 6
