"""Token ids of prompts and completions. Training, generation and benchmarks all go through one ``Encoder``, so the
prefix that a policy is trained after and the one that it is asked to continue are the same ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError

from kto_bench.component import ConfigError
from kto_bench.feedback.token_lists import TokenLists
from kto_bench.feedback.types import FeedbackError, Messages

_PROBE = "probe-of-the-assistant-turn"
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
"""Stands for a control token's text in a message while the template is rendered (two private-use characters)."""


@dataclass(frozen=True)
class Cut:
    """Token ids of n texts after truncation, and how many there were before it."""

    ids: TokenLists
    whole: np.ndarray
    """(n,) int64 tokens before the cut, BOS or end token included."""

    @property
    def is_cut(self) -> np.ndarray:
        """(n,) bool."""
        return self.whole > self.ids.lengths


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

    ``end_ids`` are the ids at which generation stops; the first is the end token that completions get. Raises
    ConfigError for a tokenizer that has no template or nothing to end a completion with, and for lengths that leave no
    room.
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
        self._bos: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._special = {
            token.content: (id_, token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        control = sorted(self._special, key=lambda text: (-len(text), text))  # longest first, as the tokenizer matches
        self._control_ids = frozenset(id_ for id_, _ in self._special.values())
        # What a mark stands for: a control token's text, or the character that marks begin with.
        self._marked = [*control, _OPEN]
        self._control_text = re.compile("|".join(map(re.escape, control)) or r"(?!)")
        self._to_mark = re.compile("|".join(map(re.escape, self._marked)))
        self.end_ids: tuple[int, ...] = self._find_end_ids()
        needed = len(self._bos) + len(self._generation_prompt()) + 1
        if max_prompt_tokens < needed:
            raise ConfigError(
                f"train.max_prompt_tokens: {max_prompt_tokens} is not allowed: BOS, the generation prompt and a token "
                f"of the prompt take {needed}"
            )

    def prompt(self, messages: Messages) -> list[int]:
        """The ids of a prompt, 1 to ``max_prompt_tokens`` of them."""
        return self.prompts([messages]).ids[0]

    def completion(self, text: str) -> list[int]:
        """The ids of a completion, 1 to ``max_completion_tokens`` of them."""
        return self.completions([text]).ids[0]

    def prompts(self, conversations: Sequence[Messages]) -> Cut:
        """``prompt`` of many conversations in one call of the tokenizer."""
        texts = self._render(conversations)
        marked = [_OPEN in text for text in texts]
        encoded = self._encode(["" if is_marked else text for text, is_marked in zip(texts, marked, strict=True)])
        if any(marked):
            rows = zip(texts, encoded, marked, strict=True)
            encoded = TokenLists.of([self._encode_marked(text) if is_marked else ids for text, ids, is_marked in rows])
        return self._cut_prompts(encoded)

    def completions(self, texts: Sequence[str]) -> Cut:
        """``completion`` of many texts in one call of the tokenizer."""
        ids = self._encode(texts, control=False).without(self.end_ids)
        kept = np.minimum(ids.lengths, self.max_completion_tokens)
        ended = ids.lengths < self.max_completion_tokens
        return Cut(ids.first(kept).extended((), self.end_ids[:1], ended), ids.lengths + 1)

    def length(self, text: str) -> int:
        """The number of tokens of a whole completion, without its end token."""
        return int(self._encode([text], control=False).lengths[0])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion's ids, without control tokens."""
        # by id: some tokenizers decode a control token as another text than its name, which skipping by name overlooks
        text: str = self.tokenizer.decode([id_ for id_ in ids if id_ not in self._control_ids])
        return text

    def shown(self, ids: Sequence[int]) -> str:
        """The text of ids with control tokens spelled out."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def render(self, messages: Messages) -> str:
        """The prompt as the template writes it; control tokens in the contents are replaced by marks."""
        return self._render([messages])[0]

    def _render(self, conversations: Sequence[Messages]) -> list[str]:
        if not conversations:
            return []
        marked = [
            [{**message, "content": self._to_mark.sub(self._mark, message["content"])} for message in messages]
            for messages in conversations
        ]
        try:
            texts: list[str] = self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # say which one it is
            return [self._template(messages, add_generation_prompt=True) for messages in marked]
        return texts

    def _mark(self, hit: re.Match[str]) -> str:
        return f"{_OPEN}{self._marked.index(hit[0])}{_CLOSE}"

    def _unmarked(self, text: str) -> str:
        return _MARK.sub(lambda mark: self._marked[int(mark[1])], text)

    def _template(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise FeedbackError(f"the chat template refuses a conversation of the roles {roles}: {error}") from error
        return text

    def _encode(self, texts: Sequence[str], *, control: bool = True) -> TokenLists:
        """Ids of ``texts`` as they are: nothing added or cut. ``control``: whether they may hold control tokens."""
        backend = self.tokenizer.backend_tokenizer
        # What transformers sets before each of its own calls.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not control
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return TokenLists.of([encoding.ids for encoding in encodings])

    def _encode_marked(self, text: str) -> list[int]:
        """Ids of a rendered prompt with marks: control tokens that the template wrote, and all else as plain text."""
        ids: list[int] = []
        end, strip = 0, False
        for hit in self._control_text.finditer(text):
            id_, token = self._special[hit[0]]
            ids += self._encode_plain(text[end : hit.start()], left=strip, right=token.lstrip)
            ids.append(id_)
            end, strip = hit.end(), token.rstrip
        return ids + self._encode_plain(text[end:], left=strip, right=False)

    def _encode_plain(self, marked: str, *, left: bool, right: bool) -> list[int]:
        """``left``, ``right``: whether the control token on that side takes the white space with it."""
        text = marked.lstrip() if left else marked
        text = self._unmarked(text.rstrip() if right else text)
        return self._encode([text], control=False)[0] if text else []

    def _cut_prompts(self, ids: TokenLists) -> Cut:
        if self._bos:
            ids = ids.without_leading(self._bos[0])
        elif (ids.lengths == 0).any():
            raise FeedbackError("a prompt has no tokens, and the tokenizer has no BOS that could stand for it")
        kept = np.minimum(ids.lengths, self.max_prompt_tokens - len(self._bos))
        return Cut(ids.last(kept).extended(self._bos), ids.lengths + len(self._bos))

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
