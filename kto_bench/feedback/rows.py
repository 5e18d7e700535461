"""One JSON value in, one row out: the dataset formats of TRL, and every reason to refuse a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kto_bench.feedback.types import Binary, Demonstration, FeedbackKind, Messages, Paired, Row

ROLES = ("system", "user", "assistant")
FIELDS: dict[FeedbackKind, tuple[str, ...]] = {
    "binary": ("prompt", "completion", "label"),
    "paired": ("prompt", "chosen", "rejected"),
    "demonstrations": ("prompt", "completion"),
}


class BadRowError(ValueError):
    """Why a row cannot be used. ``reason`` is one of a few, so that it can be counted; ``detail`` is about this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Format:
    """The format of a file: its kind, and whether prompts are text, messages, or part of the paired conversations."""

    kind: FeedbackKind
    prompt: Literal["text", "messages", "implicit"]

    def __str__(self) -> str:
        return f"{self.kind} rows, prompt {'as' if self.prompt != 'implicit' else 'is'} {self.prompt}"


def detect_format(value: Any) -> Format:
    """The format that the fields of a row say. Raises BadRowError where they say none."""
    if not isinstance(value, dict):
        raise BadRowError("not a JSON object", f"a {type(value).__name__}")
    if "chosen" in value and "rejected" in value:
        kind: FeedbackKind = "paired"
        if "prompt" not in value or _is_conversation(value["chosen"]):
            return Format(kind, "implicit")
    elif "completion" in value:
        kind = "binary" if "label" in value else "demonstrations"
    else:
        wanted = "; ".join(f"{kind}: {', '.join(fields)}" for kind, fields in FIELDS.items())
        raise BadRowError("missing field", f"has {', '.join(value) or 'none'}; expected one of {wanted}")
    return Format(kind, "messages" if isinstance(value.get("prompt"), list) else "text")


def parse_row(value: Any, default_id: str, expected: Format | None = None) -> tuple[Row, Format]:
    """The row that a JSON value stands for, and its format.

    The row's own "id" is its id, else ``default_id``. Raises BadRowError, also for a format that is not ``expected``.
    """
    if expected and isinstance(value, dict):
        for field in FIELDS[expected.kind]:
            if field not in value and not (field == "prompt" and expected.prompt == "implicit"):
                raise BadRowError("missing field", f"{field}; the first row has it")
    found = detect_format(value)
    if expected and found != expected:
        raise BadRowError("another format than the first row", f"{found}; the first row: {expected}")
    return _parse(value, found, _id(value, default_id)), found


def _parse(value: dict[str, Any], format_: Format, id_: str) -> Row:
    if format_.kind == "paired":
        if format_.prompt == "implicit":
            prompt, chosen, rejected = _split_conversations(value)
        else:
            prompt, chosen, rejected = _prompt(value), _completion(value, "chosen"), _completion(value, "rejected")
        if chosen == rejected:
            raise BadRowError("chosen equals rejected")
        return Paired(id_, prompt, chosen, rejected)
    prompt, completion = _prompt(value), _completion(value, "completion")
    if format_.kind == "demonstrations":
        return Demonstration(id_, prompt, completion)
    label = _present(value, "label")
    if not isinstance(label, bool):
        raise BadRowError("label is not true or false", f"got {_short(label)}; 0 and 1 are not read as booleans")
    return Binary(id_, prompt, completion, label)


def _id(value: dict[str, Any], default: str) -> str:
    id_ = value.get("id", default)
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise BadRowError("id is neither text nor a whole number", f"got {_short(id_)}")
    return _text(str(id_), "id")


def _present(value: dict[str, Any], field: str) -> Any:
    if field not in value:
        raise BadRowError("missing field", field)
    if value[field] is None:
        raise BadRowError(f"{field} is null")
    return value[field]


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"{field} is not text", f"got {_short(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair; nothing downstream can write it
        raise BadRowError("half a Unicode surrogate pair", field) from error
    return value


def _prompt(value: dict[str, Any]) -> Messages:
    prompt = _present(value, "prompt")
    messages = _messages(prompt, "prompt") if isinstance(prompt, list) else _user_turn(_text(prompt, "prompt"))
    _check_prompt(messages)
    return messages


def _user_turn(text: str) -> Messages:
    return ({"role": "user", "content": text},)


def _check_prompt(messages: Messages) -> None:
    if not messages:
        raise BadRowError("empty prompt")
    if messages[-1]["role"] != "user":
        raise BadRowError("the prompt's last message is not the user's", f"role {messages[-1]['role']}")
    if not messages[-1]["content"].strip():
        raise BadRowError("empty prompt")


def _completion(value: dict[str, Any], field: str) -> str:
    completion = _present(value, field)
    if isinstance(completion, list):
        messages = _messages(completion, field)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = ", ".join(message["role"] for message in messages) or "none"
            raise BadRowError(f"{field} is not one assistant message", f"roles: {roles}")
        completion = messages[0]["content"]
    return _not_empty(_text(completion, field), field)


def _not_empty(text: str, field: str) -> str:
    if not text.strip():
        raise BadRowError(f"empty {field}")
    return text


def _messages(value: list[Any], field: str) -> Messages:
    messages = []
    for message in value:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise BadRowError(f"{field} has a message without role and content", _short(message))
        if message["role"] not in ROLES:
            raise BadRowError("unknown role", f"{_short(message['role'])}; known: {', '.join(ROLES)}")
        messages.append({"role": message["role"], "content": _text(message["content"], f"{field} content")})
    return tuple(messages)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1


def _split_conversations(value: dict[str, Any]) -> tuple[Messages, str, str]:
    """Prompt, chosen and rejected of two whole conversations: the prompt is their longest common beginning.

    A "prompt" field beside whole conversations (UltraFeedback's) must say the same as they do.
    """
    sides = []
    for field in ("chosen", "rejected"):
        conversation = _present(value, field)
        if not _is_conversation(conversation):
            raise BadRowError(
                f"{field} is not a conversation", "without a prompt it must be a list of two or more messages"
            )
        sides.append(_messages(conversation, field))
    chosen, rejected = sides
    if chosen == rejected:
        raise BadRowError("chosen equals rejected")
    if chosen[:-1] != rejected[:-1] or {chosen[-1]["role"], rejected[-1]["role"]} != {"assistant"}:
        raise BadRowError("chosen and rejected do not differ in one last assistant message only")
    prompt = chosen[:-1]
    _check_prompt(prompt)
    stated = value.get("prompt")
    if stated is not None and stated not in (prompt[-1]["content"], list(prompt)):
        raise BadRowError("the prompt is not the one of the conversations")
    return prompt, _not_empty(chosen[-1]["content"], "chosen"), _not_empty(rejected[-1]["content"], "rejected")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
