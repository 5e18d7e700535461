"""What asking a judge costs: estimated before the first call, counted as answers come."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kto_bench.evaluation.judges.answers import Answer, Request

BYTES_PER_TOKEN = 4.0
"""Of English text, about; a byte-pair tokenizer of the model itself would have to be downloaded."""
TOKENS_PER_MESSAGE = 4
"""What a chat format puts around each message, about."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens, and the most that may be spent (None: no limit)."""

    input: float
    output: float
    limit: float | None = None

    def dollars(self, input_tokens: float, output_tokens: float) -> float:
        """Of that many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


@dataclass(frozen=True)
class Account:
    """What answers took. ``dollars`` is None where the judge has no price."""

    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None

    @classmethod
    def of(cls, answers: Iterable[Answer], price: Price | None) -> Account:
        """The sum over ``answers``."""
        answers = list(answers)
        tokens = sum(answer.input_tokens for answer in answers), sum(answer.output_tokens for answer in answers)
        return cls(len(answers), *tokens, None if price is None else round(price.dollars(*tokens), 6))


def tokens_of(request: Request) -> int:
    """About how many tokens a request has."""
    size = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in request)
    return math.ceil(size / BYTES_PER_TOKEN) + TOKENS_PER_MESSAGE * len(request)


def tokens_in(text: str) -> int:
    """About how many tokens a text has."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)
