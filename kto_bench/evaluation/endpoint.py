"""One call of an OpenAI-compatible endpoint, tried again where that may help."""

from __future__ import annotations

import random
import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import openai
from openai.types.chat import ChatCompletion

from kto_bench.evaluation.answers import Answer, Failure, Request
from kto_bench.evaluation.cost import tokens_in, tokens_of

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
LONGEST_TOLD_WAIT_SECONDS = 300.0
"""A server that says to come back later than that is not waited for."""
PERMANENT = {401: "the key is not accepted", 403: "access is denied", 404: "there is no such model or address"}
PASSING = {408, 409, 425, 429}
NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached"}


class Permanent(Exception):  # noqa: N818 - an error of every call to come, not of this one
    """No request will be answered, however often it is tried."""


class Call:
    """Asks one request after another, from any number of threads, until ``stop`` is set."""

    def __init__(self, client: openai.OpenAI, fields: Mapping[str, Any], tries: int, stop: threading.Event) -> None:
        """``fields`` are those of each request beside its messages."""
        self._client, self._fields, self._tries, self._stop = client, fields, tries, stop

    def __call__(self, request: Request) -> Answer | Failure:
        """The answer, or why there is none. Raises Permanent where no request would be answered."""
        reason, messages = "", cast(Any, [dict(message) for message in request])
        for attempt in range(self._tries):
            try:
                reply = self._client.chat.completions.create(messages=messages, **self._fields)
                return _answer(reply, request)
            except openai.APIStatusError as error:
                told = self._passing(error)
                if told is None:
                    return Failure(f"refused with status {error.status_code}: {self._shown(error)}")
                reason, pause = f"status {error.status_code}: {self._shown(error)}", told
            except openai.APITimeoutError:
                reason, pause = f"no answer in {self._client.timeout} s", 0.0
            except (openai.APIError, ValueError) as error:  # no connection; no JSON, or not what was asked for
                reason, pause = self._shown(error), 0.0
            if pause > LONGEST_TOLD_WAIT_SECONDS:
                return Failure(f"{reason}; the server says to try again in {pause:.0f} s")
            if attempt + 1 < self._tries and self._stop.wait(max(pause, _backoff(attempt))):
                return Failure("judging was stopped")
        return Failure(f"tried {self._tries} times, last: {reason}")

    def _passing(self, error: openai.APIStatusError) -> float | None:
        """How long to wait at least before trying again; None where this request will never be answered."""
        if error.status_code in PERMANENT:
            raise Permanent(
                f"status {error.status_code}, {PERMANENT[error.status_code]}: {self._shown(error)}"
            ) from None
        if error.code in NO_CREDIT or error.type in NO_CREDIT:
            raise Permanent(f"status {error.status_code}, no credit is left: {self._shown(error)}") from None
        if error.status_code in PASSING or error.status_code >= 500:
            return _told_wait(error.response.headers)
        return None

    def _shown(self, error: Exception) -> str:
        """What an error says, without the key, which some servers repeat."""
        text, key = str(error) or type(error).__name__, self._client.api_key
        return " ".join((text.replace(key, "***") if key else text).split())[:300]


def _answer(reply: object, request: Request) -> Answer | Failure:
    """Raises ValueError where the reply is not a chat completion with a text."""
    choices = reply.choices if isinstance(reply, ChatCompletion) else None
    if not choices or choices[0].message is None:
        raise ValueError(f"the reply is no chat completion: {str(reply)[:100]!r}")
    assert isinstance(reply, ChatCompletion)
    message, logprobs, usage = choices[0].message, choices[0].logprobs, reply.usage
    if choices[0].finish_reason == "content_filter":
        return Failure("the server's content filter withheld the answer")
    text = message.content if message.content is not None else message.refusal
    if message.tool_calls:
        text = getattr(message.tool_calls[0], "function").arguments  # noqa: B009 - of the one kind of tool we pass
    if not isinstance(text, str):
        raise ValueError(f"the reply holds no text: {message!r}"[:200])
    text = text.encode("utf-8", "replace").decode()  # half a character cannot be written to a file
    top = None
    if logprobs is not None and logprobs.content:
        top = tuple({entry.token: entry.logprob for entry in token.top_logprobs} for token in logprobs.content)
    return Answer(
        text,
        top,
        input_tokens=tokens_of(request) if usage is None else usage.prompt_tokens,
        output_tokens=tokens_in(text) if usage is None else usage.completion_tokens,
    )


def _backoff(attempt: int) -> float:
    """Seconds before the next try: twice as long each time, and up to a quarter less, so that threads spread out."""
    return min(FIRST_WAIT_SECONDS * 2.0**attempt, LONGEST_WAIT_SECONDS) * (1 - 0.25 * random.random())


def _told_wait(headers: Mapping[str, str]) -> float:
    """Seconds to wait by the headers Retry-After-Ms and Retry-After (a number or a date, RFC 9110 10.2.3); else 0."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    try:
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    except (KeyError, ValueError, TypeError):
        return 0.0
