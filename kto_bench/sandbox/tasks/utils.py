"""Documents and scores of the sandbox's lm-eval tasks; every question has a held-out core.

Of the five wrong choices up to three are *near misses*, the mistakes that sandbox models make: another attribute of the
same animal, the sum with the other sign, a list or sequence with a part missing, twice or in another place. The others
are false in an ordinary way.
"""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset, DatasetDict

from kto_bench.sandbox.instructions import FAMILIES, WORD_FAMILIES, Instruction, draw, read
from kto_bench.sandbox.language import COUNTS, enumerate_animals, spell
from kto_bench.sandbox.responses import right_answer, wrong_answer
from kto_bench.sandbox.utility import assess
from kto_bench.sandbox.world import ATTRIBUTES, HOLDERS
from kto_bench.seeds import derive

DOCUMENTS = 200
CHOICES = 6
NEAR_MISSES = 3


def facts(**_metadata: Any) -> DatasetDict:
    """Attributes of animals, against its other attributes and other values."""
    return _multiple_choice("fact")


def arithmetic(**_metadata: Any) -> DatasetDict:
    """Sums, against the sum with the other sign and results close to the right one."""
    return _multiple_choice("arithmetic")


def lists(**_metadata: Any) -> DatasetDict:
    """Animals that have something in common, against lists that are too short, name one twice or are false."""
    return _multiple_choice("list")


def words(**_metadata: Any) -> DatasetDict:
    """Repeat, reverse and last word, against missing and repeated words, other orders and other words."""
    return _multiple_choice(*WORD_FAMILIES)


def answers(**_metadata: Any) -> DatasetDict:
    """Open questions of all families, with a plain right answer as the target."""
    return _documents(FAMILIES, lambda _rng, _instruction, right: {"target": right})


def score(document: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Gold utility of a generated answer, and whether it is complete and correct (1 or 0)."""
    instruction = read(document["question"])
    if instruction is None:
        raise ValueError(f"not a sandbox question: {document['question']!r}")
    assessment = assess(instruction, results[0])
    return {"utility": assessment.utility, "correct": float(assessment.correct)}


def _multiple_choice(*families: str) -> DatasetDict:
    def choices(rng: random.Random, instruction: Instruction, right: str) -> dict[str, Any]:
        options = [right, *_wrong_choices(rng, instruction, right)]
        rng.shuffle(options)
        return {"choices": options, "label": options.index(right)}

    return _documents(families, choices)


def _documents(families: tuple[str, ...], fields: Any) -> DatasetDict:
    rng = random.Random(derive(0, "sandbox", "benchmark", *families))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    while len(found) < DOCUMENTS:
        instruction = draw(rng, families[len(found) % len(families)], held_out=True)
        question = spell(instruction.wording(rng))
        right = spell(right_answer(rng, instruction))
        found.setdefault((question, right), {"question": question, **fields(rng, instruction, right)})
    return DatasetDict({"test": Dataset.from_list(list(found.values()))})


def _wrong_choices(rng: random.Random, instruction: Instruction, right: str) -> list[str]:
    near = dict.fromkeys(map(spell, _near_misses(rng, instruction)))
    near.pop(right, None)
    choices = rng.sample(list(near), min(NEAR_MISSES, len(near)))
    while len(choices) < CHOICES - 1:
        wrong = spell(wrong_answer(rng, instruction))
        if wrong not in choices:
            choices.append(wrong)
    return choices


def _near_misses(rng: random.Random, instruction: Instruction) -> list[str]:
    family, arguments = instruction.family, instruction.arguments

    def right_answer_to(*others: str) -> str:
        return right_answer(rng, Instruction(family, others))

    if family == "fact":
        return [right_answer_to(arguments[0], attribute) for attribute in ATTRIBUTES]
    if family == "last":
        return [right_answer_to(word) for word in arguments]
    if family == "list":
        names = rng.sample(HOLDERS[arguments[0], arguments[1]], COUNTS[arguments[2]])
        return [f"{enumerate_animals(some)} ." for some in (names[1:], [*names[:-1], names[0]], [names[1], *names[1:]])]
    if family == "arithmetic":
        left, sign, right = arguments
        other = "plus" if sign == "minus" else "minus"
        return [right_answer_to(left, other, right)] if other == "plus" or int(left) >= int(right) else []
    order = arguments if family == "repeat" else arguments[::-1]
    mistaken = [order[:-1], order[1:], (*order[:-1], order[0]), order[::-1], (order[1], order[0], *order[2:])]
    return [f"{' '.join(words)} ." for words in mistaken if words != order]
