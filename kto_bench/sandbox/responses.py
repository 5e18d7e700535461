"""Responses of controlled quality: what a good, a mediocre, a bad or a terse assistant would say."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kto_bench.sandbox.instructions import Instruction
from kto_bench.sandbox.language import CONTENT_WORDS, COUNTS, PHRASES, claim, enumerate_animals
from kto_bench.sandbox.world import ANIMALS, ATTRIBUTES, FACTS, HOLDERS, NUMBERS, VALUES, result


@dataclass(frozen=True)
class Profile:
    """How an assistant behaves: probabilities of each habit, independent of each other.

    ``right``: the answer is right; else ``refusal`` of the time it is a refusal, and wrong otherwise. ``partial``: a
    right answer that has several parts lacks some. ``filler`` and ``ramble`` are tried twice each.
    """

    right: float
    partial: float
    refusal: float
    polite: float
    filler: float
    rude: float
    repeat: float
    ramble: float
    garbled: float


PROFILES: dict[str, Profile] = {
    "good": Profile(0.93, 0.08, 0.05, polite=0.65, filler=0.20, rude=0.0, repeat=0.02, ramble=0.05, garbled=0.0),
    "mid": Profile(0.70, 0.30, 0.15, polite=0.30, filler=0.30, rude=0.05, repeat=0.10, ramble=0.15, garbled=0.03),
    "bad": Profile(0.35, 0.50, 0.15, polite=0.10, filler=0.35, rude=0.25, repeat=0.20, ramble=0.35, garbled=0.10),
    "terse": Profile(0.25, 0.60, 0.30, polite=0.0, filler=0.0, rude=0.15, repeat=0.0, ramble=0.0, garbled=0.10),
}
"""By quality. The terse one is bad and short, so that length and quality do not go together."""

Mixture = dict[str, float]
"""Shares of the profiles, by name."""


def respond(rng: random.Random, instruction: Instruction, mixture: Mixture) -> str:
    """A response to ``instruction``, spaced, by an assistant drawn from ``mixture``."""
    profile = PROFILES[rng.choices(list(mixture), list(mixture.values()))[0]]
    sentences = [_body(rng, instruction, profile)]
    if rng.random() < profile.repeat:
        sentences.append(sentences[0])
    for _ in range(2):
        if rng.random() < profile.filler:
            sentences.insert(0, rng.choice(PHRASES["filler"]))
        if rng.random() < profile.ramble:
            sentences.append(fact(rng))
    if rng.random() < profile.rude:
        sentences.insert(rng.randrange(len(sentences) + 1), rng.choice(PHRASES["rude"]))
    if rng.random() < profile.polite:
        sentences.insert(0, rng.choice(PHRASES["polite"]))
    return " ".join(sentences)


def fact(rng: random.Random) -> str:
    """A true sentence about some animal, spaced."""
    animal, attribute = rng.choice(ANIMALS), rng.choice(ATTRIBUTES)
    return claim(f"the {animal}", attribute, FACTS[animal, attribute])


def _body(rng: random.Random, instruction: Instruction, profile: Profile) -> str:
    if rng.random() < profile.right:
        text = partial_answer(rng, instruction) if rng.random() < profile.partial else right_answer(rng, instruction)
    elif rng.random() < profile.refusal:
        text = rng.choice(PHRASES["refusal"])
    else:
        text = wrong_answer(rng, instruction)
    return _garble(rng, text) if rng.random() < profile.garbled else text


def _garble(rng: random.Random, text: str) -> str:
    words = text.removesuffix(" .").split()
    rng.shuffle(words)
    return " ".join([*words, "."])


def _other(rng: random.Random, options: tuple[str, ...], *excluded: str) -> str:
    while (found := rng.choice(options)) in excluded:
        pass
    return found


def _sum(arguments: tuple[str, ...], number: str) -> str:
    return f"{' '.join(arguments)} is {number} ."


def _description(animal: str, claims: list[tuple[str, str]]) -> str:
    return " ".join(claim(subject, *one) for subject, one in zip([f"the {animal}", *["it"] * 3], claims, strict=False))


def right_answer(rng: random.Random, instruction: Instruction) -> str:
    """A complete and correct answer with nothing else, spaced. It has gold utility 1."""
    arguments = instruction.arguments
    match instruction.family:
        case "fact":
            animal, attribute = arguments
            return claim(f"the {animal}", attribute, FACTS[animal, attribute])
        case "list":
            attribute, value, count = arguments
            return f"{enumerate_animals(rng.sample(HOLDERS[attribute, value], COUNTS[count]))} ."
        case "arithmetic":
            return _sum(arguments, result(*arguments))
        case "repeat":
            return f"{' '.join(arguments)} ."
        case "reverse":
            return f"{' '.join(reversed(arguments))} ."
        case "last":
            return f"the last word is {arguments[-1]} ."
        case _:
            animal = arguments[0]
            return _description(animal, [(one, FACTS[animal, one]) for one in rng.sample(ATTRIBUTES, 3)])


def partial_answer(rng: random.Random, instruction: Instruction) -> str:
    """An answer with no false part that leaves something out; the right one where there is only one part."""
    arguments = instruction.arguments
    match instruction.family:
        case "list":
            attribute, value, count = arguments
            return f"{enumerate_animals(rng.sample(HOLDERS[attribute, value], COUNTS[count] - 1))} ."
        case "describe":
            animal = arguments[0]
            some = rng.sample(ATTRIBUTES, rng.choice((1, 2)))
            return _description(animal, [(one, FACTS[animal, one]) for one in some])
        case "repeat" | "reverse":
            words = right_answer(rng, instruction).split()
            del words[rng.randrange(len(words) - 1)]
            return " ".join(words)
        case _:
            return right_answer(rng, instruction)


def wrong_answer(rng: random.Random, instruction: Instruction) -> str:
    """A well-formed answer of the right kind that is false, spaced."""
    arguments = instruction.arguments
    match instruction.family:
        case "fact":
            animal, attribute = arguments
            return claim(f"the {animal}", attribute, _other(rng, VALUES[attribute], FACTS[animal, attribute]))
        case "list":
            attribute, value, count = arguments
            named = rng.sample(HOLDERS[attribute, value], COUNTS[count])
            for place in rng.sample(range(len(named)), rng.choice((1, len(named)))):
                named[place] = _other(rng, ANIMALS, *HOLDERS[attribute, value], *named)
            return f"{enumerate_animals(named)} ."
        case "arithmetic":
            near = int(result(*arguments)) + rng.choice((-3, -2, -1, 1, 2, 3))
            return _sum(arguments, str(near) if str(near) in NUMBERS else _other(rng, NUMBERS, result(*arguments)))
        case "repeat" | "reverse":
            words = right_answer(rng, instruction).split()[:-1]
            words[rng.randrange(len(words))] = _other(rng, CONTENT_WORDS, *words)
            return f"{' '.join(words)} ."
        case "last":
            return f"the last word is {_other(rng, CONTENT_WORDS, arguments[-1])} ."
        case _:
            animal = arguments[0]
            some = rng.sample(ATTRIBUTES, 3)
            false = set(rng.sample(some, rng.choice((1, 2))))
            return _description(
                animal,
                [
                    (one, _other(rng, VALUES[one], FACTS[animal, one]) if one in false else FACTS[animal, one])
                    for one in some
                ],
            )
