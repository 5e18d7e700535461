"""Asking a model judge: the cost is told first, answers are kept as they come, and only what is missing is asked for.

Everything that a model judges goes through ``ask``: comparisons, grades and verdicts of any form.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.answers import Answer, AnswerFile, Failure, Question, Request
from kto_bench.evaluation.judges.cost import Account, Price, tokens_of
from kto_bench.evaluation.judges.model_judge import ModelJudge
from kto_bench.lines import write_lines
from kto_bench.store import fingerprint_of, saved_beside

ANSWERS = "answers.jsonl"
FAILURES_IN_A_ROW = 10
"""So many, each after its retries, and the rest is not asked for: the server is down, or refuses all alike."""
UNASKED = "it was not asked for"
PROBES = 3
"""So many requests, one by one, may be needed to learn how the server counts, before several at once may cost more than
the limit."""
Read = Callable[[Answer], Any | None]


@dataclass(frozen=True)
class Asked:
    """What became of each request, in order: the ``values`` that were read, with the ``answers`` they were read from;
    where there is none, ``failures`` says why. ``account`` holds what all answers took, also of earlier launches."""

    judge: str
    values: list[Any | None]
    answers: list[Answer | None]
    failures: list[str | None]
    account: Account

    def require(self, what: str) -> None:
        """Raise EvaluationError with count and examples unless every one of ``what``, such as "grades", is there."""
        failed = [failure for failure in self.failures if failure is not None]
        if failed:
            raise EvaluationError(
                f"judge {self.judge!r}: {len(failed)} of {len(self.values)} {what} are missing "
                f"({'; '.join(failed[:3])}); the answers that came are kept, and a relaunch asks for these only"
            )


def ask(
    judge: ModelJudge,
    requests: Sequence[Request],
    read: Read,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    names: Sequence[str] | None = None,
) -> Asked:
    """Have ``judge`` answer ``requests``. The same request several times is as many questions, each answered anew.

    ``read`` turns an answer into what it states; None, or an exception, means that it cannot be read, and it is asked
    for again, until ``judge.asks`` answers have been given. ``folder`` is that of the stage: until its artifact is
    whole, answers are kept beside it, by the judge's identity and the exact request. ``say`` is told the cost before
    the first call, ``progress(done, total)`` how many requests have an answer. ``names`` are what messages call the
    requests, such as prompt ids; their numbers, if none are given.

    Raises EvaluationError before any call where the estimated cost exceeds the judge's ``max_cost``; later where no
    more can be answered (a wrong key or model, a server that is down) or may be spent.
    """
    named = list(names) if names is not None else [f"request {number}" for number in range(1, len(requests) + 1)]
    file = AnswerFile(saved_beside(folder) / ANSWERS)
    return _Asking(judge, requests, read, file, progress, say, named).run(folder)


class _Asking:
    def __init__(
        self,
        judge: ModelJudge,
        requests: Sequence[Request],
        read: Read,
        file: AnswerFile,
        progress: Callable[[int, int], None] | None,
        say: Callable[[str], None] | None,
        names: Sequence[str],
    ) -> None:
        self._names = names
        self._judge, self._read, self._file, self._progress, self._say = judge, read, file, progress, say
        identity = judge.identity()
        seen: Counter[str] = Counter()
        self._questions: list[Question] = []
        for request in requests:
            content = fingerprint_of({"judge": identity, "request": list(map(dict, request))})
            self._questions.append(Question(f"{content}-{seen[content]}", request))
            seen[content] += 1
        self._index = {question.key: index for index, question in enumerate(self._questions)}
        n = len(self._questions)
        self._values: list[Any | None] = [None] * n
        self._answers: list[Answer | None] = [None] * n
        self._failures: list[str | None] = [UNASKED] * n
        self._failed_in_a_row = 0
        self._waiting: dict[str, Question] = {}
        self._estimated, self._counted = 0, 0  # tokens in the requests that were answered: ours, and the server's
        tokens = Account.of(file.all, None)
        self._paid = tokens.input_tokens, tokens.output_tokens
        self._out_of_money = False

    def run(self, folder: Path) -> Asked:
        for index, question in enumerate(self._questions):
            for answer in self._file.of(question.key):
                self._compare(question, answer)
                self._take(index, answer)
        stored = self._done
        todo = [
            replace(question, attempt=len(self._file.of(question.key)))
            for question, failure in zip(self._questions, self._failures, strict=True)
            if failure is not None
        ]
        if todo:
            self._announce(todo, stored)
        for _ in range(self._judge.asks):
            todo = self._round(todo)
            if not todo:
                break
        write_lines(folder / ANSWERS, (asdict(answer) for answer in self._answers if answer is not None))
        account = Account.of(self._file.all, self._judge.price)
        return Asked(self._judge.name, self._values, self._answers, self._failures, account)

    @property
    def _done(self) -> int:
        return self._failures.count(None)

    @property
    def _spent(self) -> float:
        return self._judge.price.dollars(*self._paid) if self._judge.price else 0.0

    def _announce(self, todo: Sequence[Question], stored: int) -> None:
        """Say what is to be asked and what that costs, and refuse where it may cost too much."""
        tokens = sum(tokens_of(question.request) for question in todo), len(todo) * self._judge.max_tokens
        text = f"judge {self._judge.name}: {len(todo)} answers to ask for"
        if stored:
            text += f" ({stored} of {len(self._questions)} are there already)"
        text += f", about {tokens[0]:,} tokens in and at most {tokens[1]:,} out"
        price = self._judge.price
        if price is not None:
            estimate = price.dollars(*tokens)
            text += f": about ${estimate:.2f} at most"
            spent = self._spent
            if price.limit is not None and spent + estimate > price.limit:
                before = f" beside the ${spent:.2f} spent already" if spent else ""
                raise EvaluationError(
                    f"{text}{before}, which exceeds evaluation.judge.max_cost, ${price.limit:.2f}; nothing was asked. "
                    "Raise max_cost, judge fewer prompts, or choose a cheaper judge"
                )
        if self._say:
            self._say(text)

    def _round(self, todo: Sequence[Question]) -> list[Question]:
        """Ask ``todo`` once, and return those whose answer could not be read."""
        price, first = self._judge.price, 0
        unread: list[Question] = []
        if price is not None and price.limit is not None:
            while not self._counted and first < min(PROBES, len(todo)):
                unread += self._exchange(todo[first : first + 1])
                first += 1
        return unread + self._exchange(todo[first:])

    def _exchange(self, todo: Sequence[Question]) -> list[Question]:
        unread = []
        try:
            for question, outcome in self._judge.replies(self._supply(deque(todo))):
                if not self._keep(question, outcome):
                    unread.append(replace(question, attempt=len(self._file.of(question.key))))
        except EvaluationError as error:
            self._stop(str(error), error)
        if self._failed_in_a_row >= FAILURES_IN_A_ROW:
            self._stop(f"{self._failed_in_a_row} requests in a row failed, so the rest was not asked for")
        if self._out_of_money:
            self._stop("another call might exceed evaluation.judge.max_cost")
        return unread

    def _keep(self, question: Question, outcome: Answer | Failure) -> bool:
        """Note what came back. False for an answer that cannot be read, which is worth asking for again."""
        del self._waiting[question.key]
        index = self._index[question.key]
        if isinstance(outcome, Failure):
            self._failed_in_a_row += 1
            self._failures[index] = f"{self._names[index]}: {outcome.reason}"
        else:
            self._failed_in_a_row = 0
            self._file.add(question.key, outcome)
            self._paid = self._paid[0] + outcome.input_tokens, self._paid[1] + outcome.output_tokens
            self._compare(question, outcome)
            self._take(index, outcome)
        if self._progress:
            self._progress(self._done, len(self._questions))
        return isinstance(outcome, Failure) or self._failures[index] is None

    def _supply(self, todo: deque[Question]) -> Iterator[Question]:
        """The questions, one by one as the judge is ready for them, while there is hope and money."""
        while todo and self._failed_in_a_row < FAILURES_IN_A_ROW:
            price = self._judge.price
            if price is not None and price.limit is not None and self._might_exceed(price, todo[0]):
                self._out_of_money = True
                return
            question = todo.popleft()
            self._waiting[question.key] = question
            yield question

    def _might_exceed(self, price: Price, question: Question) -> bool:
        in_flight = [*self._waiting.values(), question]
        too_low = max(self._counted / self._estimated, 1.0) if self._estimated else 1.0
        tokens = too_low * sum(tokens_of(asked.request) for asked in in_flight), len(in_flight) * self._judge.max_tokens
        return price.limit is not None and self._spent + price.dollars(*tokens) > price.limit

    def _compare(self, question: Question, answer: Answer) -> None:
        self._estimated += tokens_of(question.request)
        self._counted += answer.input_tokens

    def _take(self, index: int, answer: Answer) -> None:
        """Read an answer; the first that can be read is the one that counts."""
        if self._failures[index] is None:
            return
        why = "cannot be read"
        try:
            value = self._read(answer)
        except Exception as error:  # a parser of a library raises what it likes
            value, why = None, f"cannot be read ({type(error).__name__}: {error})"
        if value is None and not answer.text.strip() and answer.output_tokens >= self._judge.max_tokens:
            why += f" (all of max_tokens={self._judge.max_tokens} went into thoughts: raise it)"
        if value is None:
            self._failures[index] = f"{self._names[index]}: answer {answer.text[:80]!r} {why}"
            return
        self._values[index], self._answers[index], self._failures[index] = value, answer, None

    def _stop(self, why: str, cause: Exception | None = None) -> None:
        asked = [failure for failure in self._failures if failure and failure != UNASKED]
        examples = f" ({'; '.join(asked[-3:])})" if asked else ""
        missing = len(self._questions) - self._done
        raise EvaluationError(
            f"judge {self._judge.name!r}: {why}{examples}; {missing} of {len(self._questions)} judgements are missing. "
            "The answers that came are kept, and a relaunch asks for the missing ones only"
        ) from cause
