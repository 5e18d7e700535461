"""Chat templates: the tokenizer's own, and two for base models that come without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError

TURNS = (
    "{% for message in messages %}{{ '\\n<|' + message['role'] + '|>\\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)
"""The turn format of the KTO paper's experiments (Ethayarajh et al. 2024). The markers are plain text, so a base model
needs no new tokens; nothing ends a turn, so completions end with the tokenizer's eos_token."""

PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The contents of all messages, one after the other: text in, continuation out."""


CHOICES = "choose own, turns, plain or the path of an existing Jinja file"


def check_template_choice(choice: str) -> str:
    """``choice`` itself; raises ValueError where ``apply_template_choice`` would refuse it."""
    if choice not in ("own", "turns", "plain") and not Path(choice).is_file():
        raise ValueError(CHOICES)
    return choice


def apply_template_choice(tokenizer: Any, choice: str) -> None:
    """Set ``tokenizer.chat_template`` in place.

    ``choice`` is "own" (the tokenizer's template; "turns" where it has none), "turns", "plain", or the path of a
    Jinja file. Raises ConfigError for anything else.
    """
    if choice == "own":
        tokenizer.chat_template = tokenizer.chat_template or TURNS
    elif choice == "turns":
        tokenizer.chat_template = TURNS
    elif choice == "plain":
        tokenizer.chat_template = PLAIN
    elif Path(choice).is_file():
        tokenizer.chat_template = Path(choice).read_text(encoding="utf-8")
    else:
        raise ConfigError(f"model.chat_template: {choice!r} is not allowed: {CHOICES}")
