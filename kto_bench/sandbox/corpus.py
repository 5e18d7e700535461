"""The text that a sandbox model is pretrained on: plain statements and chat threads that often do not end."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import Field
from transformers import PreTrainedTokenizerFast

from kto_bench.models import Corpus
from kto_bench.sandbox.instructions import FAMILIES, draw
from kto_bench.sandbox.language import CONTENT_WORDS, MARKS, PHRASES, PREDICATES, WORDS, enumerate_animals
from kto_bench.sandbox.responses import Mixture, fact, respond, right_answer
from kto_bench.sandbox.tokenizer import ASSISTANT, BOS, EOS, USER, build_tokenizer
from kto_bench.sandbox.world import HOLDERS, identified

INTERNET: Mixture = {"good": 0.35, "mid": 0.40, "bad": 0.15, "terse": 0.10}
"""Who writes the replies of the pretraining text."""
STATEMENTS = {"fact": 0.36, "group": 0.20, "sum": 0.18, "words": 0.22, "phrase": 0.04}
"""Shares of the kinds of plain statements."""


class SandboxCorpus(Corpus):
    """Plain text and chat threads about the sandbox; no question with a held-out core is ever asked in it.

    ``chat_share`` is the share of tokens that are chat. A reply is followed by the end token with probability
    ``end_share`` only, else by more plain text or by another question, so a base model has to be taught to stop.
    """

    name: str = "sandbox"
    chat_share: float = Field(0.58, ge=0, le=1)
    end_share: float = Field(0.3, gt=0, le=1)

    def identity(self) -> dict[str, Any]:
        """The fields and the version of the sandbox."""
        return identified(super().identity())

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The sandbox's tokenizer, with its chat template."""
        return build_tokenizer()

    def stream(self, tokens: int, seed: int) -> np.ndarray:
        """(tokens,) int32 token ids: documents one after the other, each opened by the BOS token."""
        rng = random.Random(seed)
        ids = word_ids()
        stream: list[int] = []
        chat_tokens = 0
        while len(stream) < tokens:
            is_chat = chat_tokens < self.chat_share * len(stream) or self.chat_share == 1
            document = self._thread(rng) if is_chat else f"{BOS} {_statements(rng, 6)}"
            before = len(stream)
            stream.extend([ids[word] for word in document.split()])
            chat_tokens += is_chat * (len(stream) - before)
        return np.array(stream[:tokens], dtype=np.int32)

    def _thread(self, rng: random.Random) -> str:
        parts = [BOS]
        while True:
            question = draw(rng, rng.choice(FAMILIES), held_out=False)
            parts += [USER, question.wording(rng), ASSISTANT, respond(rng, question, INTERNET)]
            if rng.random() < self.end_share:
                return " ".join([*parts, EOS])
            if rng.random() < 0.5:
                parts.append(_statements(rng, 2))


@lru_cache(maxsize=1)
def word_ids() -> dict[str, int]:
    """Token ids by word, mark or special token: the fast way to encode a spaced text."""
    pieces = {word: word if word in MARKS else f" {word}" for word in WORDS}
    pieces |= {special: special for special in (BOS, EOS, USER, ASSISTANT)}
    vocabulary = build_tokenizer().get_vocab()
    return {word: vocabulary[piece] for word, piece in pieces.items()}


def _statements(rng: random.Random, most: int) -> str:
    kinds = rng.choices(list(STATEMENTS), list(STATEMENTS.values()), k=rng.randint(1, most))
    return " ".join(_statement(rng, kind) for kind in kinds)


def _statement(rng: random.Random, kind: str) -> str:
    match kind:
        case "fact":
            return fact(rng)
        case "group":
            predicate = rng.choice(tuple(PREDICATES))
            holders = HOLDERS[PREDICATES[predicate]]
            return f"animals that {predicate} : {enumerate_animals(rng.sample(holders, rng.choice((2, 3))))} ."
        case "sum":
            return right_answer(rng, draw(rng, "arithmetic", held_out=rng.random() < 0.2))
        case "words":
            return _about_words(rng)
        case _:
            return rng.choice(PHRASES[rng.choice(tuple(PHRASES))])


def _about_words(rng: random.Random) -> str:
    # Told as often as the other two, the last word is learnt well; told less often, some seeds never learn it.
    some = rng.sample(CONTENT_WORDS, rng.choice((2, 3)))
    words = " ".join(some)
    return rng.choice(
        (
            f"the words {words} again : {words} .",
            f"the words {words} backwards : {' '.join(reversed(some))} .",
            f"the last word of {words} is {some[-1]} .",
        )
    )
