"""One call of an OpenAI-compatible endpoint, tried again where that may help."""

from __future__ import annotations

import math
import random
import threading
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall

from kto_bench.evaluation.judges.answers import Answer, Failure, Request
from kto_bench.evaluation.judges.cost import tokens_in, tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from openai.types.chat.chat_completion_token_logprob import TopLogprob

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
LONGEST_TOLD_WAIT_SECONDS = 300.0
"""A server that says to come back later than that is not waited for."""
PERMANENT = {
    401: "the key is not accepted",
    402: "no credit is left",
    403: "access is denied",
    404: "there is no such model or address",
}
RATE_LIMIT = 429
PASSING = {408, 409, 425, RATE_LIMIT}
NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached"}


class Permanent(Exception):  # noqa: N818 - an error of every call to come, not of this one
    """No request will be answered, however often it is tried."""


class Call:
    """Asks one request after another, from any number of threads, until ``stop`` is set."""

    def __init__(self, client: openai.OpenAI, fields: Mapping[str, Any], tries: int, stop: threading.Event) -> None:
        """``fields`` are those of each request beside its messages."""
        self._client, self._fields, self._tries, self._stop = client, fields, tries, stop
        self._answered = 0

    def __call__(self, request: Request) -> Answer | Failure:
        """The answer, or why there is none. Raises Permanent where no request would be answered.

        A rate limit while other requests are answered starts the count of tries anew: those who share the limit get
        through by turns, however many they are.
        """
        reason, messages = "", cast(Any, [dict(message) for message in request])
        refused, tried, answered = 0, 0, self._answered
        while True:
            limited = False
            try:
                # The fields go into the body as they are: servers know more of them than the client does.
                reply = self._client.chat.completions.create(
                    model=self._fields["model"], messages=messages, extra_body=dict(self._fields)
                )
                answer = _answer(reply, request)
                self._answered += 1
                return answer
            except openai.APIStatusError as error:
                told = self._passing(error)
                if told is None:
                    return Failure(f"refused with status {error.status_code}: {self._shown(error)}")
                reason, pause = f"status {error.status_code}: {self._shown(error)}", told
                limited = error.status_code == RATE_LIMIT
            except openai.APITimeoutError:
                reason, pause = f"no answer in {self._client.timeout} s", 0.0
            except (openai.APIError, ValueError) as error:  # no connection; no JSON, or not what was asked for
                reason, pause = self._shown(error), 0.0
            if pause > LONGEST_TOLD_WAIT_SECONDS:
                return Failure(f"{reason}; the server says to try again in {pause:.0f} s")
            tried = 0 if limited and self._answered > answered else tried + 1
            answered = self._answered
            if tried == self._tries:
                return Failure(f"tried {refused + 1} times, last: {reason}")
            if self._stop.wait(_wait(pause, refused)):
                return Failure("judging was stopped")
            refused += 1

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
        if isinstance(error, openai.APIConnectionError) and error.__cause__:
            text += f" ({error.__cause__})"  # such as that nothing listens there, or that there is no such host
        return " ".join((text.replace(key, "***") if key else text).split())[:300]


def _answer(reply: object, request: Request) -> Answer | Failure:
    """Raises ValueError where the reply is not a chat completion with a text."""
    try:
        return _read(reply, request)
    except (AttributeError, TypeError, IndexError) as error:  # the client checks nothing of what it takes apart
        raise ValueError(f"the reply is no chat completion: {str(reply)[:100]!r}") from error


def _read(reply: Any, request: Request) -> Answer | Failure:
    if not isinstance(reply, ChatCompletion):
        raise TypeError("another content type")
    choice, usage = reply.choices[0], reply.usage
    message, logprobs = choice.message, choice.logprobs
    if choice.finish_reason == "content_filter":
        return Failure("the server's content filter withheld the answer")
    text = message.content if message.content is not None else message.refusal
    if message.tool_calls and isinstance(message.tool_calls[0], ChatCompletionMessageFunctionToolCall):
        text = message.tool_calls[0].function.arguments
    if text is None and choice.finish_reason == "length":
        text = ""  # max_tokens went into thoughts: an answer that was paid for, and that another try would not better
    if not isinstance(text, str):
        raise ValueError(f"the reply holds no text: {message!r}"[:200])
    text, top = _writable(text), None
    if logprobs is not None and logprobs.content:
        top = tuple(_by_text(token.top_logprobs or []) for token in logprobs.content)
    counts = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    return Answer(
        text,
        top,
        input_tokens=counts[0] if isinstance(counts[0], int) else tokens_of(request),
        output_tokens=counts[1] if isinstance(counts[1], int) else tokens_in(text),
    )


def _by_text(likeliest: Iterable[TopLogprob]) -> dict[str, float]:
    """Log-probabilities by token; of tokens with one text, such as parts of characters, the likeliest counts."""
    found: dict[str, float] = {}
    for entry in likeliest:
        text = _writable(entry.token)
        found[text] = max(entry.logprob, found.get(text, -math.inf))
    return found


def _writable(text: str) -> str:
    """Half a character cannot be written to a file."""
    return text.encode("utf-8", "replace").decode()


def _wait(told: float, refused: int) -> float:
    """Seconds before the next try: at least as long as was ``told``, and twice as long each time that it was refused;
    up to a quarter more, so that threads spread out."""
    wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(refused, 30), LONGEST_WAIT_SECONDS)
    return max(told, wait) * (1 + 0.25 * random.random())


def _told_wait(headers: Mapping[str, str]) -> float:
    """Seconds to wait by the headers Retry-After-Ms and Retry-After (a number or a date, RFC 9110 10.2.3); else 0."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        return max(parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time(), 0.0)
    except (KeyError, ValueError, TypeError):
        return 0.0
