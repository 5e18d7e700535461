"""A judge behind any endpoint that speaks OpenAI's chat completions, through the ``openai`` client.

What may pass is tried again: rate limits (waiting as long as the server says), server errors, time-outs, broken
connections and answers that are no JSON. What will not is told at once: a wrong key or model, no credit left. A request
that the server refuses for itself, such as one that is too long, fails alone.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.answers import Answer, Failure, Question
from kto_bench.evaluation.judges.cost import Price
from kto_bench.evaluation.judges.model_judge import ModelJudge

if TYPE_CHECKING:
    from openai import OpenAI

TAKEN = frozenset({"model", "messages", "temperature", "max_tokens", "max_completion_tokens", "logprobs"})
TAKEN |= {"top_logprobs", "n", "stream"}
"""Parameters of a request that are fields of the judge, or fixed."""
SECRET = re.compile(r"key|secret|password|auth|bearer|(^|_)token$|^headers$|^extra_", re.IGNORECASE)
"""Names of what might be one."""

SECONDS_BETWEEN_LOOKS = 0.5


class EndpointJudge(ModelJudge):
    """A model of a server at ``base_url``.

    The key is read from the environment variable ``key_variable`` when the judge is asked (null: the server wants none)
    and is never stored or shown. ``input_price`` and ``output_price`` are dollars per million tokens, 0 for a server of
    your own; ``max_cost`` in dollars bounds what one set of judgements may cost, all launches together.

    Each request is tried up to ``tries`` times and may take ``timeout_seconds`` each time; ``concurrency`` are in
    flight at once. ``parameters`` are further fields of the request, such as ``seed``, ``top_p`` or ``tools`` (a tool
    call's arguments are then the answer).
    """

    base_url: str
    model: str = Field(min_length=1)
    key_variable: str | None = "OPENAI_API_KEY"
    input_price: float = Field(ge=0, allow_inf_nan=False)
    output_price: float = Field(ge=0, allow_inf_nan=False)
    max_cost: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    parameters: dict[str, Any] = Field(default_factory=dict)
    timeout_seconds: float = Field(60.0, gt=0, allow_inf_nan=False)
    tries: int = Field(8, ge=1)
    concurrency: int = Field(8, ge=1)

    changes_no_answer: ClassVar[frozenset[str]] = ModelJudge.changes_no_answer | {
        *("key_variable", "input_price", "output_price", "max_cost", "max_tokens_field"),
        *("timeout_seconds", "tries", "concurrency"),
    }

    @field_validator("base_url")
    @classmethod
    def _is_an_address_without_secrets(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:  # and not shown
            raise ConfigError(
                "evaluation.judge.base_url: it holds a user name, a password or a query, and it goes into the record; "
                "give the address alone, and the key in the environment"
            )
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError("give the address of an OpenAI-compatible server, such as http://localhost:8000/v1")
        return url.rstrip("/")

    @field_validator("key_variable")
    @classmethod
    def _is_the_name_of_a_variable(cls, name: str | None) -> str | None:
        if name is not None and not (name.isidentifier() and name.isupper()):  # it may be a key: it is not shown
            raise ConfigError(
                "evaluation.judge.key_variable: this is not the name of an environment variable, in capitals; give the "
                "variable that holds the key, such as OPENAI_API_KEY, never the key itself"
            )
        return name

    @field_validator("parameters")
    @classmethod
    def _has_no_field_of_its_own(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(TAKEN & set(parameters)):
            raise ValueError(f"{', '.join(taken)}: set by other fields of the judge, or fixed; leave them out")
        if secret := [name for name in parameters if SECRET.search(name)]:
            raise ConfigError(
                f"evaluation.judge.parameters: {', '.join(secret)} cannot be given: parameters go into the record; the "
                "key is read from the environment"
            )
        return parameters

    @model_validator(mode="after")
    def _draws_anew(self) -> EndpointJudge:
        if self.repeats > 1 and "seed" in self.parameters:
            raise ValueError(
                f"repeats: {self.repeats} asks the same again to see the judge's noise, and parameters.seed fixes it; "
                "leave out the seed, or choose repeats=1"
            )
        return self

    def check(self) -> None:
        """Raise ConfigError unless the environment holds the key."""
        self._key()

    @property
    def price(self) -> Price:
        """Per million tokens, and the limit."""
        return Price(self.input_price, self.output_price, self.max_cost)

    def replies(self, questions: Iterable[Question]) -> Iterator[tuple[Question, Answer | Failure]]:
        """Keep ``concurrency`` requests in flight; those are finished before a permanent error is raised."""
        from kto_bench.evaluation.judges.endpoint import Call, Permanent

        waiting, stop = iter(questions), threading.Event()
        jobs: SimpleQueue[Question | None] = SimpleQueue()
        done: SimpleQueue[tuple[Question, Answer | Failure | Exception]] = SimpleQueue()
        client = self._client()
        call = Call(client, self._fields(), self.tries, stop)

        def work() -> None:
            while (question := jobs.get()) is not None:
                try:
                    done.put((question, call(question.request)))
                except Exception as error:
                    done.put((question, error))

        # Daemons, unlike the threads of a pool: a preempted process does not wait for a server that says nothing.
        for _ in range(self.concurrency):
            threading.Thread(target=work, daemon=True).start()
        problem: Exception | None = None
        running = 0
        try:
            while True:
                while problem is None and running < self.concurrency and (question := next(waiting, None)) is not None:
                    jobs.put(question)
                    running += 1
                if not running:
                    break
                try:
                    question, outcome = done.get(timeout=SECONDS_BETWEEN_LOOKS)
                except Empty:  # a signal that another thread was given is handled here
                    continue
                running -= 1
                if isinstance(outcome, Exception):  # what else is in flight will be paid for, and is waited for
                    problem, outcome = outcome, Failure(str(outcome))
                    stop.set()  # whoever waits for another try need not
                yield question, outcome
        finally:
            stop.set()
            for _ in range(self.concurrency):
                jobs.put(None)
            client.close()
        if isinstance(problem, Permanent):
            raise EvaluationError(f"{self.base_url} will not answer for model {self.model!r}: {problem}")
        if problem is not None:
            raise problem

    def _fields(self) -> dict[str, Any]:
        """Of each request, beside its messages."""
        fields: dict[str, Any] = {"model": self.model, self.max_tokens_field: self.max_tokens, **self.parameters}
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        if self.top_logprobs is not None:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return fields

    def _client(self) -> OpenAI:
        from openai import OpenAI

        # Its own retries do not know that no credit is left, and give up at once on an answer that is no JSON.
        return OpenAI(api_key=self._key(), base_url=self.base_url, timeout=self.timeout_seconds, max_retries=0)

    def _key(self) -> str:
        if self.key_variable is None:
            return "none"
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ConfigError(
                f"evaluation.judge.key_variable: the environment has no {self.key_variable}; export the key of "
                f"{self.base_url} under that name, or choose null for a server that wants none"
            )
        if not (key.isascii() and key.isprintable()):  # it would fail each request, and some errors would show it
            raise ConfigError(
                f"evaluation.judge.key_variable: {self.key_variable} holds a line break or a character that no key has "
                "(it is not shown); export the key alone"
            )
        return key
