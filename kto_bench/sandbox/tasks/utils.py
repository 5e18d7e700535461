"""Documents and scores of the sandbox's lm-eval tasks; every question has a held-out core."""

from __future__ import annotations

import itertools
import random
from typing import Any

from datasets import Dataset, DatasetDict

from kto_bench.sandbox.instructions import FAMILIES, WORD_FAMILIES, Instruction, draw, read
from kto_bench.sandbox.language import spell
from kto_bench.sandbox.responses import right_answer, wrong_answer
from kto_bench.sandbox.utility import assess
from kto_bench.seeds import derive

DOCUMENTS = 200
CHOICES = 4


def facts(**_metadata: Any) -> DatasetDict:
    """Attributes of animals: one true sentence and three false ones."""
    return _multiple_choice("fact")


def arithmetic(**_metadata: Any) -> DatasetDict:
    """Sums, with wrong results close to the right one."""
    return _multiple_choice("arithmetic")


def lists(**_metadata: Any) -> DatasetDict:
    """Animals that have something in common, against lists with one or more that have not."""
    return _multiple_choice("list")


def words(**_metadata: Any) -> DatasetDict:
    """Repeat, reverse and last word, against answers to the other two instructions and other orders."""
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
        options = [right, *_false_answers(rng, instruction, right)]
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


def _false_answers(rng: random.Random, instruction: Instruction, right: str) -> list[str]:
    """Three false answers; to an instruction about words first those that use the right words."""
    found: list[str] = []
    if instruction.family in WORD_FAMILIES:
        orders = [Instruction("repeat", order) for order in itertools.permutations(instruction.arguments)]
        if instruction.family == "last":
            orders = [Instruction("last", (word,)) for word in instruction.arguments]
        rng.shuffle(orders)
        found = [spell(right_answer(rng, order)) for order in orders]
    while len(set(found) - {right}) < CHOICES - 1:
        found.append(spell(wrong_answer(rng, instruction)))
    return list(dict.fromkeys(text for text in found if text != right))[: CHOICES - 1]
