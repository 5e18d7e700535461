"""Judges: which of two completions of a prompt is better.

A judge is what alpaca_eval calls an annotator: alpaca_eval formats ``prompt_template`` for each comparison and hands
the prompts to ``complete``, whose answers are read with ``answers``. Each text enters the template as a JSON string in
which braces are escaped as well (``quote``): nothing that a model writes can end the field early, imitate another
field or be taken for a placeholder, and ``read`` gets the exact texts back from any prompt.

A new judge is one of:

* a Python function named in YAML (``CallableJudge``);
* a class with ``prefer(instruction, output_1, output_2)``;
* a class with ``complete(prompts)``, for judges that answer in batches (``read`` gives the texts);
* a ``Wording`` for a language model behind an endpoint or on this machine (``model_judge.py``).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from kto_bench.component import Component
from kto_bench.evaluation.errors import EvaluationError

PLACEHOLDERS = ("instruction", "output_1", "output_2")
PLAIN_TEMPLATE = """\
Instruction: {instruction}
Output 1: {output_1}
Output 2: {output_2}
Which output is better? Answer 1, 2 or, for a tie, 1.5."""
PLACEHOLDER = re.compile(rf"{{({'|'.join(PLACEHOLDERS)})}}")
_ANYTHING_LIKE_A_PLACEHOLDER = re.compile(r"{([^ \s]+?)}")  # what alpaca_eval takes for one


class Judge(Component):
    """Compares two completions of a prompt. Which of them is ours is hidden: the order is drawn per prompt.

    With ``orders="both"`` each comparison is made twice, once in either order, and ``repeats`` asks each question that
    often: the preference is then the mean, and the summary tells the judge's position bias and its noise.
    """

    name: str
    prompt_template: str = PLAIN_TEMPLATE
    orders: Literal["random", "both"] = "random"
    repeats: int = Field(1, ge=1)

    @field_validator("prompt_template")
    @classmethod
    def _has_each_placeholder_once(cls, template: str) -> str:
        found = _ANYTHING_LIKE_A_PLACEHOLDER.findall(template)
        if sorted(found) != sorted(PLACEHOLDERS):
            raise ValueError(f"it must hold each of {{instruction}}, {{output_1}}, {{output_2}} once; found {found}")
        return template

    def identity(self) -> dict[str, Any]:
        """The fields; of ``orders`` and ``repeats`` those that ask for more than one comparison of a prompt."""
        asked_once = {"orders": "random", "repeats": 1}
        identity = super().identity()
        return {key: value for key, value in identity.items() if key not in asked_once or value != asked_once[key]}

    def check(self) -> None:
        """Raise ConfigError where judging would fail for a reason that is known now, such as a missing key."""

    @property
    def exchange_template(self) -> str:
        """The template of the prompts that ``complete`` gets and ``read`` takes apart."""
        return self.prompt_template

    def order_key(self, prompt_id: str, instruction: str) -> str:
        """What the order of the two outputs is drawn by, beside the seed."""
        return order_key(prompt_id, instruction)

    @property
    def answers(self) -> dict[float, str]:
        """Preference -> regular expression of the answers that state it (1: output 1, 2: output 2, 1.5: a tie)."""
        return {1: r"^\s*1(\.0*)?\s*$", 2: r"^\s*2(\.0*)?\s*$", 1.5: r"^\s*(0(\.0*)?|1\.50*)\s*$"}

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        """1 if ``output_1`` is better, 2 if ``output_2`` is, 1.5 (or 0) for a tie; any other value is a failure."""
        raise TypeError(f"{type(self).__name__} defines neither prefer() nor complete()")

    def complete(self, prompts: list[str]) -> list[str]:
        """One answer for each prompt, in order. An answer that matches none of ``answers`` fails the evaluation."""
        return [_answer(self.prefer(*self.read(prompt))) for prompt in prompts]

    def stated(self, answer: Any) -> float | None:
        """The preference that ``answer`` states, if it states exactly one."""
        found = [preference for preference, pattern in self.answers.items() if re.search(pattern, str(answer))]
        return found[0] if len(found) == 1 else None

    def scores(self, instruction: str, completion: str) -> dict[str, float]:
        """Absolute scores of one completion (for example its utility); stored beside the preference. May be empty."""
        return {}

    def read(self, prompt: str) -> tuple[str, str, str]:
        """(instruction, output_1, output_2), exactly as they were, from a prompt that ``prompt_template`` made."""
        match = _reader(self.exchange_template).fullmatch(prompt)
        if match is None:
            raise EvaluationError(f"judge {self.name!r}: not a prompt of its prompt_template: {prompt[:200]!r}")
        instruction, output_1, output_2 = (json.loads(match[name]) for name in PLACEHOLDERS)
        return instruction, output_1, output_2


class CallableJudge(Judge):
    """A Python function as a judge.

    ``function`` is its import path (``my_module.prefer``); it is called as ``prefer(instruction, output_1, output_2)``
    and returns 1 or 2 for the better output, or 1.5 (or 0) for a tie. ``score``, if given, is the import path of a
    function called as ``score(instruction, completion)`` that returns a dictionary of numbers.
    """

    name: str = "callable"
    function: str
    score: str | None = None

    @field_validator("function", "score")
    @classmethod
    def _can_be_imported(cls, path: str | None) -> str | None:
        if path is not None:
            _import_function(path)
        return path

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        """What ``function`` returns."""
        return _import_function(self.function)(instruction, output_1, output_2)

    def scores(self, instruction: str, completion: str) -> dict[str, float]:
        """What ``score`` returns, if there is one."""
        return _import_function(self.score)(instruction, completion) if self.score else {}

    def identity(self) -> dict[str, Any]:
        """The fields, and a hash of the file that defines each function: editing the judge judges again."""
        sources = {path: _hash_of_source(path) for path in (self.function, self.score) if path}
        return {**super().identity(), "sources": sources}


def order_key(prompt_id: str, instruction: str) -> str:
    """The key of an order that is drawn for each prompt, also where two prompts share an instruction."""
    return quote(instruction) + quote(prompt_id)


def quote(text: str) -> str:
    """``text`` as an ASCII JSON string of one line without braces; ``json.loads`` is its inverse."""
    return json.dumps(text).replace("{", r"\u007b").replace("}", r"\u007d")


@functools.lru_cache(maxsize=64)
def _reader(template: str) -> re.Pattern[str]:
    # A JSON string says where it ends, so any template with the three fields can be read in one way only.
    literals = PLACEHOLDER.split(template)
    pattern = [re.escape(literals[0])]
    for name, literal in zip(literals[1::2], literals[2::2], strict=True):
        pattern += [rf'(?P<{name}>"(?:[^"\\]|\\.)*+")', re.escape(literal)]
    return re.compile("".join(pattern))


def _answer(preference: Any) -> str:
    # A bool is no preference: `return a > b` says "is 1 better?", not "which is better?", and True would pass for 1.
    is_number = isinstance(preference, Real) and not isinstance(preference, bool)
    return f"{float(preference):g}" if is_number else repr(preference)


def _import_function(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import a function by this path, expected `module.function` ({error})") from error
    if not callable(function):
        raise ValueError("it names something that cannot be called; expected `module.function`")
    return function


def _hash_of_source(path: str) -> str:
    file = inspect.getsourcefile(inspect.unwrap(_import_function(path)))
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else path
