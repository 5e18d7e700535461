"""A policy as lm-eval sees it. Importing this module imports lm_eval and torch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import FeedbackError

_UNLIMITED = 1 << 30


class PolicyLM(HFLM):
    """lm-eval's transformers model, except that a prompt's ids come from the ``Encoder`` that training uses.

    lm-eval renders a chat to text and tokenises prompt and answer as one string; the policy was trained on prompt and
    completion tokenised apart, with one BOS. Here a conversation keeps its ids from ``Encoder.prompt`` and the answer
    those of ``Encoder.completion``. Without a chat template (``chat=False``) all is as in lm-eval.

    ``truncated`` counts the requests whose prompt did not fit the model: its end was kept, and its BOS. An answer may
    be as long as its task allows, but no longer than ``max_new_tokens`` and half of the model's positions;
    ``new_tokens`` tells the length that was last asked for, and that which was allowed. ``on_progress(done, total)`` is
    told how many requests of the last call are done. Raises EvaluationError for a prompt that starts with two BOS.
    """

    def __init__(
        self, model: Any, tokenizer: Any, batch_size: int, *, chat: bool, max_new_tokens: int | None = None
    ) -> None:
        tokenizer = copy.deepcopy(tokenizer)  # HFLM may give it a padding token
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.encoder = Encoder(tokenizer, _UNLIMITED, _UNLIMITED) if chat else None
        self.truncated = 0
        self.new_tokens: tuple[int, int] | None = None
        self.on_progress: Callable[[int, int], None] = lambda done, total: None
        self._most = min(max_new_tokens or _UNLIMITED, max(self.max_length // 2, 1))
        self._done = self._total = 0
        self._prompts: dict[str, tuple[list[int], str]] = {}  # rendered chat -> ids, start of the answer

    @property
    def eot_token_id(self) -> int:
        """The id that ends a completion."""
        return self.encoder.end_ids[0] if self.encoder else super().eot_token_id

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, by which lm-eval names it; its ids are kept for when lm-eval asks for them.

        Without ``add_generation_prompt`` the last message is the start of the answer, given by the task. A template
        that refuses a system message does without it, as in lm-eval.
        """
        assert self.encoder is not None
        *history, last = chat_history
        prompt, start = (chat_history, "") if add_generation_prompt else (history, last["content"])
        try:
            ids = self.encoder.prompt(tuple(prompt))
        except FeedbackError:
            prompt = [message for message in prompt if message["role"] != "system"]
            ids = self.encoder.prompt(tuple(prompt))
        text = self.encoder.render(tuple(prompt)) + start
        self._prompts[text] = (ids, start)
        return text

    def context_ids(self, context: str) -> list[int]:
        """The ids that the model is given for a request's context."""
        if context not in self._prompts:
            return self._checked(super().tok_encode(context))
        ids, start = self._prompts[context]
        return self._checked(ids + self._answer(start))

    def tok_encode(self, string: str, *arguments: Any, **options: Any) -> list[int]:
        """Ids of a context, or of any other text as lm-eval would encode it."""
        if string in self._prompts:
            return self.context_ids(string)
        return super().tok_encode(string, *arguments, **options)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        """The text of an answer. An indented first line keeps its indentation, on which a program depends.

        Tokenizers in the manner of Llama 2 and Mistral take a space off the start of whatever they decode, so that
        the answer to HumanEval would begin with three spaces where its other lines have four.
        """
        text: str = super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
        if isinstance(tokens, int) or len(tokens) == 0:
            return text
        ids = list(tokens)
        twice: str = super().tok_decode(ids + ids, skip_special_tokens=skip_special_tokens)  # the second: not the start
        whole = twice[len(text) :] if twice.startswith(text) else text
        return whole if whole.startswith("  ") else text

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, width) ids and attention mask of contexts to generate from, padded on the left."""
        rows = [self._cut(self.context_ids(string), left_truncate_len or _UNLIMITED) for string in strings]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """As in lm-eval, with the suite's progress instead of its bars."""
        with self._counted(len(requests)):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """As in lm-eval, with a cap on the answers' length, and the suite's progress instead of its bars."""
        capped = [self._capped(request) for request in requests]
        with self._counted(len(requests)):
            return super().generate_until(capped, disable_tqdm=disable_tqdm)

    def _capped(self, request: Any) -> Any:
        context, options = request.args
        options = normalize_gen_kwargs(options, self.max_gen_toks)
        asked = options["max_gen_toks"]
        self.new_tokens = asked, min(asked, self._most)
        request = copy.copy(request)
        request.arguments = (context, {**options, "max_gen_toks": min(asked, self._most)})
        return request

    @contextlib.contextmanager
    def _counted(self, requests: int) -> Iterator[None]:
        """Progress over ``requests``; a forward pass may serve several, so the count is set right at the end."""
        self._done, self._total = 0, requests
        yield
        self._advance(self._total - self._done)

    def _advance(self, rows: int) -> None:
        self._done = min(self._done + rows, self._total)
        if self._total:
            self.on_progress(self._done, self._total)

    def _model_call(self, inps: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        logits = super()._model_call(inps, *arguments, **options)
        self._advance(len(inps))
        return logits

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context in self._prompts:
            prompt, start = self._prompts[context]
            given = self._answer(start)
            answer = self._answer(start + continuation)[len(given) :]
            ids = self._checked(prompt + given)
        else:
            ids, answer = super()._encode_pair(context, continuation)
            ids = self._checked(ids)
        return self._cut(ids, self.max_length + 1 - len(answer)), answer

    def _answer(self, text: str) -> list[int]:
        """A completion's ids without its end token."""
        assert self.encoder is not None
        return self.encoder.completion(text)[:-1] if text else []

    def _cut(self, ids: list[int], room: int) -> list[int]:
        if len(ids) <= room:
            return ids
        self.truncated += 1
        bos = [ids[0]] if ids[0] == self.tokenizer.bos_token_id else []
        return bos + ids[len(ids) - (room - len(bos)) :]

    def _checked(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise EvaluationError(
                f"benchmarks: a prompt starts with two BOS tokens ({ids[:8]}); the chat template, the task or the "
                "tokenizer writes one too many"
            )
        return ids

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        end_ids = self.encoder.end_ids if self.encoder else (self.eot_token_id,)
        generated = super()._model_generate(context, max_length, stop, eos_token_id=list(end_ids), **options)
        self._advance(len(context))
        return generated
