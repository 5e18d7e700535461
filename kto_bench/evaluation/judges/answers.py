"""What model judges are asked and answer, and the file in which answers are kept as they come."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kto_bench.lines import append_line, read_lines
from kto_bench.store import write_atomically

Message = Mapping[str, str]
"""{"role": "system", "user" or "assistant", "content": text}."""
Request = tuple[Message, ...]
"""A conversation whose next turn is asked for."""


@dataclass(frozen=True)
class Question:
    """A request, and a key that no other question to the same judge has: repeating one is another question.

    ``attempt`` counts the answers to it that could not be read.
    """

    key: str
    request: Request
    attempt: int = 0


@dataclass(frozen=True)
class Answer:
    """What a model said, and what it took.

    ``top_logprobs`` holds for each generated token the log-probabilities (natural) of the likeliest tokens there, by
    their text; None where they were not asked for.
    """

    text: str
    top_logprobs: tuple[dict[str, float], ...] | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Answer:
        """From ``dataclasses.asdict`` read back from JSON."""
        top = plain["top_logprobs"]
        return cls(**{**plain, "top_logprobs": None if top is None else tuple(top)})


@dataclass(frozen=True)
class Failure:
    """Why there is no answer to one request; others may be answered."""

    reason: str


class AnswerFile:
    """Answers by key, one line each, written as they come; a kill loses none that had been written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        rows = read_lines(path)
        if path.exists():  # a kill may have left half a line, which the next one must not be appended to
            write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._answers: dict[str, list[Answer]] = defaultdict(list)
        for row in rows:
            self._answers[row["key"]].append(Answer.of(row["answer"]))

    def add(self, key: str, answer: Answer) -> None:
        """Keep one more answer under ``key``."""
        append_line(self._path, {"key": key, "answer": asdict(answer)})
        self._answers[key].append(answer)

    def of(self, key: str) -> list[Answer]:
        """All answers under ``key``, oldest first."""
        return self._answers.get(key, [])

    @property
    def all(self) -> list[Answer]:
        """Every answer, whether it could be read or not: each was paid for."""
        return [answer for answers in self._answers.values() for answer in answers]
