"""Asking: keys, the account, and what happens to answers and failures, with a judge that is scripted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.answers import Answer, AnswerFile, Failure, Question
from kto_bench.evaluation.judges.asking import Asked, ask
from kto_bench.evaluation.judges.cost import Account, Price, tokens_of
from kto_bench.evaluation.judges.model_judge import ModelJudge

TEMPLATE = {
    "_target_": "kto_bench.evaluation.judges.wording.Wording",
    "prompt_template": "{instruction}{output_1}{output_2}",
}


class Scripted(ModelJudge):
    """Answers with the length of the request and the attempt; fails requests that say so. In reverse order."""

    name: str = "scripted"
    wording: Any = Field(TEMPLATE, validate_default=True)
    asked: ClassVar[list[Question]] = []

    def replies(self, questions: Iterable[Question]) -> Iterator[tuple[Question, Answer | Failure]]:
        for question in reversed(list(questions)):
            self.asked.append(question)
            text = question.request[0]["content"]
            fails = text.startswith("fail")
            yield question, Failure("so it goes") if fails else Answer(f"{len(text)}/{question.attempt}", None, 7, 2)


def requests(*texts: str) -> list[Any]:
    return [({"role": "user", "content": text},) for text in texts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Scripted.asked.clear()
    path = tmp_path / "f.partial-1"
    path.mkdir()
    return path


def second_attempt(answer: Answer) -> int | None:
    length, attempt = map(int, answer.text.split("/"))
    return length if attempt == 1 else None


def test_values_are_in_the_order_of_the_requests(folder: Path) -> None:
    found = ask(Scripted(), requests("a", "bbb", "cc"), lambda answer: int(answer.text.split("/")[0]), folder)
    assert found.values == [1, 3, 2]
    assert found.failures == [None, None, None]
    assert found.account == Account(3, 21, 6, None)
    found.require("grades")


def test_the_same_request_again_is_another_question(folder: Path) -> None:
    found = ask(Scripted(), requests("a", "a", "b"), lambda answer: answer.text, folder)
    assert found.values == ["1/0"] * 3
    assert len({question.key for question in Scripted.asked}) == 3
    again = ask(Scripted(), requests("b", "a", "a", "a"), lambda answer: answer.text, folder)
    assert again.values == ["1/0"] * 4
    assert len(Scripted.asked) == 4, "only the third of a kind is new"


def test_what_cannot_be_read_is_asked_again_as_another_attempt(folder: Path) -> None:
    found = ask(Scripted(), requests("a", "bb"), second_attempt, folder)
    assert found.values == [1, 2]
    assert [question.attempt for question in Scripted.asked] == [0, 0, 1, 1]
    assert found.account.calls == 4, "each answer was paid for"
    assert ask(Scripted(), requests("a", "bb"), second_attempt, folder).values == [1, 2]
    assert len(Scripted.asked) == 4
    first = ask(Scripted(), requests("a", "bb"), lambda answer: answer.text, folder).values
    assert first == ["1/0", "2/0"], "the first that can be read"


def test_a_relaunch_goes_on_counting_attempts(folder: Path) -> None:
    """A judge that draws its answers would else give the one that could not be read again."""
    assert ask(Scripted(asks=1), requests("a"), second_attempt, folder).values == [None]
    assert ask(Scripted(asks=1), requests("a"), second_attempt, folder).values == [1]


def test_missing_ones_are_counted_with_examples(folder: Path) -> None:
    def fussy(answer: Answer) -> int:
        return {"2/0": 2}[answer.text]

    found = ask(Scripted(asks=1), requests("fail", "bb", "ccc"), fussy, folder, names=["x", "y", "z"])
    assert found.values == [None, 2, None]
    assert isinstance(found, Asked)
    with pytest.raises(
        EvaluationError, match=r"'scripted': 2 of 3 grades are missing \(x: so it goes; z: answer '3/0'"
    ):
        found.require("grades")
    with pytest.raises(EvaluationError, match=r"cannot be read \(KeyError"):
        found.require("grades")


def test_another_wording_or_setting_is_another_question(folder: Path) -> None:
    ask(Scripted(), requests("a"), lambda answer: 1, folder)
    ask(Scripted(asks=9, name="renamed"), requests("a"), lambda answer: 1, folder)
    assert len(Scripted.asked) == 1
    ask(Scripted(temperature=1.0), requests("a"), lambda answer: 1, folder)
    ask(Scripted(wording={**TEMPLATE, "cut_unfinished": True}), requests("a"), lambda answer: 1, folder)
    assert len(Scripted.asked) == 3


def test_the_file_of_answers_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    answer = Answer("a\u2028b", ({"x": -0.5, "y": -1.25},), 3, 1)
    AnswerFile(path).add("k", answer)
    file = AnswerFile(path)
    file.add("k", Answer("second"))
    assert AnswerFile(path).of("k") == [answer, Answer("second")]
    assert AnswerFile(path).of("other") == []
    assert Account.of(AnswerFile(path).all, Price(1e6, 2e6)) == Account(2, 3, 1, 5.0)


def test_tokens_are_about_a_quarter_of_the_bytes() -> None:
    assert tokens_of(({"role": "user", "content": "abcd" * 10},)) == 10 + 4
    assert tokens_of(({"role": "user", "content": "é" * 2}, {"role": "user", "content": ""})) == 1 + 8
