"""What an annotator sees in a completion: its gold utility, its style, and what it would be worth if misjudged.

Style is what can be seen without knowing the answer. Gold utility pays little for it, biases may pay more:

| feature    | is                                                                                             |
| ---------- | ---------------------------------------------------------------------------------------------- |
| length     | tokens beyond those of a plain right answer, by ten: (tokens - plain) / 10, from -1 to 3        |
| politeness | 1 if a polite sentence is in it ("sure!", "of course.", "happy to help!", ...)                  |
| flattery   | 1 if it praises the question or thanks for it ("good question.", "thanks for asking.")          |
| confidence | 1 if it answers, rightly or wrongly, without saying that it does not know or can not help       |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from kto_bench.feedback.annotator import Candidates
from kto_bench.feedback.types import FeedbackError
from kto_bench.sandbox.instructions import read
from kto_bench.sandbox.language import PHRASES, token_count, units
from kto_bench.sandbox.utility import assess, plain_length, sentences_of
from kto_bench.sandbox.value import Array

STYLE = ("length", "politeness", "flattery", "confidence")
"""The features, in the order of the columns of ``Seen.style``."""
TOKENS_PER_UNIT = 10
SHORTEST, LONGEST = -1.0, 3.0
"""Bounds of the feature "length": nobody feels the difference between very long and longer still."""

_FLATTERY = {"good question", "thanks for asking"}
_REFUSALS = {phrase[:-2] for phrase in PHRASES["refusal"]}


@dataclass(frozen=True)
class Impression:
    """One completion as an answer to its prompt."""

    utility: float
    """Gold utility."""
    misjudged: float
    """The gold utility of the same words if a complete answer were none (q = 0), or any other one complete (q = 1)."""
    style: tuple[float, ...]
    """By ``STYLE``."""


@lru_cache(maxsize=65536)
def impression(question: str, completion: str) -> Impression:
    """Read ``completion`` as an answer to ``question``. Raises FeedbackError where that is no sandbox question."""
    instruction = read(question)
    if instruction is None:
        raise FeedbackError(
            f"annotators of the sandbox know what completions of sandbox questions are worth, not of {question!r}: "
            "choose an annotator that reads any text, such as a judge, or feedback=sandbox"
        )
    assessment = assess(instruction, completion)
    words = units(completion)
    sentences = set(sentences_of(words)[0])
    length = (token_count(words) - plain_length(instruction)) / TOKENS_PER_UNIT
    answers = assessment.completeness > 0 or assessment.false_claims > 0
    style = (
        min(max(length, SHORTEST), LONGEST),
        float(assessment.polite),
        float(bool(sentences & _FLATTERY)),
        float(answers and not sentences & _REFUSALS),
    )
    misjudged = replace(assessment, completeness=0.0 if assessment.correct else 1.0).utility
    return Impression(assessment.utility, misjudged, style)


@dataclass(frozen=True)
class Seen:
    """Completions as an annotator reads them, one row each."""

    utility: Array
    """(n,)"""
    swing: Array
    """(n,): how much utility a completion gains or loses if it is not as right or wrong as it seems."""
    style: Array
    """(n, len(STYLE))"""

    @classmethod
    def of(cls, impressions: Sequence[Impression]) -> Seen:
        """The impressions as arrays."""
        utility = np.array([one.utility for one in impressions])
        swing = np.array([one.misjudged for one in impressions]) - utility
        return cls(utility, swing, np.array([one.style for one in impressions]).reshape(-1, len(STYLE)))

    @classmethod
    def shown(cls, shown: Sequence[Candidates]) -> Seen:
        """Every completion of ``shown``, in order."""
        return cls.of([impression(one.prompt[-1]["content"], text) for one in shown for text in one.completions])

    def __len__(self) -> int:
        return len(self.utility)
