"""How a model judge is asked which of two outputs is better, and how its answer is read."""

from __future__ import annotations

import functools
import re

from pydantic import Field, field_validator

from kto_bench.component import Component
from kto_bench.evaluation.judges.answers import Answer, Message, Request
from kto_bench.evaluation.judges.judge import PLACEHOLDER, PLACEHOLDERS, order_key

PREFERENCES = (1.0, 1.5, 2.0)
_NO_BLAME = r"(?!\W+(?i:is|was)\W+(?i:the\W+)?(?i:not|less|worse)\b)"
NUMBERS = {
    1.0: rf"^\W*1\b(?!\.\d)(?!\W*(?i:and|or)?\W*2\b){_NO_BLAME}",
    2.0: rf"^\W*2\b(?!\.\d)(?!\W*(?i:and|or)?\W*1\b){_NO_BLAME}",
}
"""Answers that begin with one number, which begins no list of both and is not found fault with ("1 is worse")."""
_CHAT_ML = re.compile(r"<\|im_start\|>(?P<role>[^\n]*)\n(?P<content>.*?)<\|im_end\|>", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*(?=\s|$)")


class Wording(Component):
    """A prompt for one comparison, and patterns that say which answers state which preference.

    ``prompt_template`` holds {instruction}, {output_1} and {output_2} once each. It is one user message, or several
    messages if it is written in ChatML (``<|im_start|>role``, a line feed, the content, ``<|im_end|>``). Texts are put
    in as they are and in one pass: nothing in them is taken for a placeholder or for the start of a message.

    ``patterns`` maps preferences (1: output 1 is better, 2: output 2, 1.5: a tie) to regular expressions that are
    searched for in the answer. An answer that matches none, or two of them, states no preference.

    ``cut_unfinished`` drops what follows the last end of a sentence in an output, so that a token limit, which cuts
    sentences, is not judged along with the content. An output without any is shown whole.

    Subclasses may override ``request`` and ``preference``, for example to read a preference from log-probabilities.
    """

    prompt_template: str
    patterns: dict[float, str] = Field(default_factory=lambda: dict(NUMBERS))
    cut_unfinished: bool = False

    @field_validator("prompt_template")
    @classmethod
    def _has_each_placeholder_once(cls, template: str) -> str:
        found = PLACEHOLDER.findall(template)
        if sorted(found) != sorted(PLACEHOLDERS):
            raise ValueError(f"it must hold each of {{instruction}}, {{output_1}}, {{output_2}} once; found {found}")
        if "<|im_start|>" in template and not _messages(template):
            raise ValueError("it is not ChatML: each message is <|im_start|>role, a line feed, content, <|im_end|>")
        return template

    @field_validator("patterns")
    @classmethod
    def _can_be_searched_for(cls, patterns: dict[float, str]) -> dict[float, str]:
        unknown = sorted(set(patterns) - set(PREFERENCES))
        if unknown or not {1.0, 2.0} <= set(patterns):
            raise ValueError(f"it needs patterns for 1 and 2, and may have one for 1.5 (a tie); got {sorted(patterns)}")
        for pattern in patterns.values():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    def request(self, instruction: str, output_1: str, output_2: str) -> Request:
        """The conversation that a judge is to continue."""
        shown = {"instruction": instruction, "output_1": self._shown(output_1), "output_2": self._shown(output_2)}
        return tuple(
            {"role": message["role"], "content": PLACEHOLDER.sub(lambda match: shown[match[1]], message["content"])}
            for message in _messages(self.prompt_template)
        )

    def preference(self, answer: Answer) -> float | None:
        """1 to 2: 1 if output 1 is better, 2 if output 2 is, 1.5 for a tie; None where the answer does not say."""
        stated = [preference for preference, pattern in self.patterns.items() if re.search(pattern, answer.text)]
        return stated[0] if len(stated) == 1 else None

    def order_key(self, prompt_id: str, instruction: str) -> str:
        """What the order of the two outputs is drawn by."""
        return order_key(prompt_id, instruction)

    def _shown(self, output: str) -> str:
        ends = list(_SENTENCE_END.finditer(output)) if self.cut_unfinished else []
        return output[: ends[-1].end()] if ends else output


@functools.lru_cache(maxsize=64)
def _messages(template: str) -> tuple[Message, ...]:
    """The messages of a template, stripped as alpaca_eval strips them."""
    template = template.strip()
    if "<|im_start|>" not in template:
        return ({"role": "user", "content": template},)
    if _CHAT_ML.sub("", template).strip():
        return ()
    return tuple(
        {"role": match["role"].strip(), "content": match["content"].strip()} for match in _CHAT_ML.finditer(template)
    )
