"""Token ids of prompts and completions. Training, generation and benchmarks all go through one ``Encoder``, so the
prefix that a policy is trained after and the one that it is asked to continue are the same ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError

from kto_bench.component import ConfigError
from kto_bench.feedback.conversions import prompt_key
from kto_bench.feedback.types import Feedback, FeedbackError, FeedbackKind, Messages

CHUNK = 1024
"""Texts in one call of the tokenizer; between calls ``progress`` is told."""

_PROBE = "probe-of-the-assistant-turn"
_MARK = re.compile("\ue000([0-9]+)\ue001")
"""Stands for a control token's text in a message while the template is rendered (two private-use characters)."""


class Encoder:
    """A transformers fast tokenizer with its chat template, and the maximum lengths in tokens.

    * A prompt is rendered by the chat template with its generation prompt. It starts with exactly one BOS where the
      tokenizer has one, whether or not the template writes it. Too long a prompt keeps its *end*: the BOS and the last
      ``max_prompt_tokens - 1`` ids.
    * A completion ends with exactly one end token: what the template puts after an assistant's content (Llama-3's
      <|eot_id|>, ChatML's <|im_end|>), or eos_token where the template puts nothing. Too long a completion keeps its
      first ``max_completion_tokens`` ids and gets no end token, since it did not end.
    * Both are tokenised apart and their ids concatenated, so nothing merges across the boundary.
    * Control tokens that are spelled out in a message or a completion are text, not control tokens.

    ``end_ids`` are the ids at which generation stops; the first is the end token that completions get. ``truncated``
    counts the prompts and completions that were cut. Raises ConfigError for a tokenizer that has no template or
    nothing to end a completion with, and for lengths that leave no room.
    """

    def __init__(self, tokenizer: Any, max_prompt_tokens: int, max_completion_tokens: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(f"tokenizer: {type(tokenizer).__name__} is not a fast tokenizer; convert it to one")
        if not tokenizer.chat_template:
            raise ConfigError(
                "tokenizer: it has no chat template; choose one with chat_template: turns, plain or a file"
            )
        if max_completion_tokens < 1:
            raise ConfigError(f"train.max_completion_tokens: {max_completion_tokens} is not allowed: choose 1 or more")
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_completion_tokens = max_completion_tokens
        self.truncated: dict[str, int] = {"prompt": 0, "completion": 0}
        self._bos: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        special = {token.content: id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._control = sorted(special, key=lambda text: (-len(text), text))  # longest first, as the tokenizer matches
        self._control_ids = frozenset(special.values())
        self._control_text = re.compile("|".join(map(re.escape, self._control)) or r"(?!)")
        self.end_ids: tuple[int, ...] = self._find_end_ids()
        needed = len(self._bos) + len(self._generation_prompt()) + 1
        if max_prompt_tokens < needed:
            raise ConfigError(
                f"train.max_prompt_tokens: {max_prompt_tokens} is not allowed: BOS, the generation prompt and a token "
                f"of the prompt take {needed}"
            )

    def prompt(self, messages: Messages) -> list[int]:
        """The ids of a prompt, 1 to ``max_prompt_tokens`` of them."""
        return self.prompts([messages])[0]

    def completion(self, text: str) -> list[int]:
        """The ids of a completion, 1 to ``max_completion_tokens`` of them."""
        return self.completions([text])[0]

    def prompts(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """``prompt`` of many conversations in one call of the tokenizer."""
        texts = [self.render(messages) for messages in conversations]
        encoded = self._encode([_MARK.sub("", text) for text in texts])
        return [
            self._cut_prompt(self._encode_marked(text) if _MARK.search(text) else ids)
            for text, ids in zip(texts, encoded, strict=True)
        ]

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """``completion`` of many texts in one call of the tokenizer."""
        return [self._end_completion(ids) for ids in self._encode(texts, control=False)]

    def length(self, text: str) -> int:
        """The number of tokens of a whole completion, without its end token."""
        return len(self._encode([text], control=False)[0])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion's ids, without control tokens."""
        # by id: some tokenizers decode a control token as another text than its name, which skipping by name overlooks
        text: str = self.tokenizer.decode([id_ for id_ in ids if id_ not in self._control_ids])
        return text

    def render(self, messages: Messages) -> str:
        """The prompt as the template writes it; control tokens in the contents are replaced by marks."""
        marked = [
            {**message, "content": self._control_text.sub(self._mark, message["content"])} for message in messages
        ]
        return self._template(marked, add_generation_prompt=True)

    def _mark(self, hit: re.Match[str]) -> str:
        return f"\ue000{self._control.index(hit[0])}\ue001"

    def _template(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise FeedbackError(f"the chat template refuses a conversation of the roles {roles}: {error}") from error
        return text

    def _encode(self, texts: Sequence[str], *, control: bool = True) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=not control,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        return ids

    def _encode_marked(self, text: str) -> list[int]:
        """Ids of a rendered prompt with marks: what the template wrote, and control tokens' texts as plain text."""
        ids: list[int] = []
        for position, part in enumerate(_MARK.split(text)):
            is_mark = position % 2 == 1
            ids += self._encode([self._control[int(part)] if is_mark else part], control=not is_mark)[0]
        return ids

    def _cut_prompt(self, ids: list[int]) -> list[int]:
        while self._bos and ids[:1] == self._bos:
            ids = ids[1:]
        if not self._bos and not ids:
            raise FeedbackError("a prompt has no tokens, and the tokenizer has no BOS that could stand for it")
        room = self.max_prompt_tokens - len(self._bos)
        self.truncated["prompt"] += len(ids) > room
        return self._bos + ids[-room:]

    def _end_completion(self, ids: list[int]) -> list[int]:
        ids = [*(id_ for id_ in ids if id_ not in self.end_ids), self.end_ids[0]]
        self.truncated["completion"] += len(ids) > self.max_completion_tokens
        return ids[: self.max_completion_tokens]

    def _find_end_ids(self) -> tuple[int, ...]:
        conversation = [{"role": "user", "content": "probe"}, {"role": "assistant", "content": _PROBE}]
        rendered = self._template(conversation, add_generation_prompt=False)
        _, found, tail = rendered.rpartition(_PROBE)
        if not found:
            raise ConfigError("tokenizer: its chat template does not show what the assistant says")
        added = {id_ for id_, token in self.tokenizer.added_tokens_decoder.items() if token.content.strip()}
        after = [id_ for id_ in self._encode([tail])[0] if id_ in added]
        eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        if not after and not eos:
            raise ConfigError(
                "tokenizer: neither its chat template nor an eos_token says how a completion ends; set eos_token"
            )
        return tuple(dict.fromkeys(after[:1] + eos))

    def _generation_prompt(self) -> list[int]:
        user = [{"role": "user", "content": "probe"}]
        without = self._template(user, add_generation_prompt=False)
        return self._encode([self._template(user, add_generation_prompt=True).removeprefix(without)])[0]


@dataclass(frozen=True)
class TokenisedFeedback:
    """n completions and their prompts as token ids.

    Of paired feedback, completion 2i is the chosen one of pair i and 2i + 1 its rejected one.
    """

    kind: FeedbackKind
    prompts: list[list[int]]
    """Distinct prompts, in the order of their first row."""
    prompt_of: np.ndarray
    """(n,) int64 index into ``prompts``."""
    completions: list[list[int]]
    """n lists of ids, end token included."""
    desirable: np.ndarray | None
    """(n,) bool for binary feedback, else None."""
    ids: list[str]
    """n ids: of the row that each completion comes from."""
    truncated: dict[str, int]
    """How many of ``prompts`` and ``completions`` were cut."""


def tokenise(
    feedback: Feedback, encoder: Encoder, progress: Callable[[int, int], None] | None = None
) -> TokenisedFeedback:
    """Encode all rows. ``progress`` is called with (texts done, texts in all)."""
    sides = ("chosen", "rejected") if feedback.kind == "paired" else ("completion",)
    texts = [getattr(row, side) for row in feedback.rows for side in sides]
    positions: dict[str, int] = {}
    distinct: list[Messages] = []
    prompt_of = np.empty(len(texts), dtype=np.int64)
    for number, row in enumerate(feedback.rows):
        position = positions.setdefault(prompt_key(row.prompt), len(distinct))
        if position == len(distinct):
            distinct.append(row.prompt)
        prompt_of[number * len(sides) : (number + 1) * len(sides)] = position

    before = dict(encoder.truncated)
    total = len(distinct) + len(texts)
    prompts = _in_chunks(encoder.prompts, distinct, progress, 0, total)
    completions = _in_chunks(encoder.completions, texts, progress, len(distinct), total)
    return TokenisedFeedback(
        kind=feedback.kind,
        prompts=prompts,
        prompt_of=prompt_of,
        completions=completions,
        desirable=np.array([row.label for row in feedback.rows], dtype=bool) if feedback.kind == "binary" else None,
        ids=[row.id for row in feedback.rows for _ in sides],
        truncated={name: count - before[name] for name, count in encoder.truncated.items()},
    )


def _in_chunks(
    encode: Callable[[Any], list[list[int]]],
    values: list[Any],
    progress: Callable[[int, int], None] | None,
    done: int,
    total: int,
) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(values), CHUNK):
        ids += encode(values[start : start + CHUNK])
        if progress is not None:
            progress(done + len(ids), total)
    return ids
