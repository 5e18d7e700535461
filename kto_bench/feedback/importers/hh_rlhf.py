"""Anthropic HH-RLHF (Bai et al. 2022): human preferences between two dialogues, as paired feedback.

SOURCE is one of the published *.jsonl.gz files or a folder of them. A dialogue is split at its last "Assistant:" into
prompt and completion. Left out and counted: pairs with equal sides, pairs that differ before the last turn (there is no
common prompt), empty completions, dialogues that go on after the last Assistant turn, and prompts in which one side
speaks twice in a row (chat templates refuse them). White space around turns is the notation's and is removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from kto_bench.feedback.importers.report import Report, json_lines, require

_LAST = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def convert(source: Path, report: Report) -> Iterator[dict[str, Any]]:
    """Rows with a list of messages as prompt, and chosen and rejected as text."""
    for id_, place, value in json_lines(source):
        require(value, {"chosen": str, "rejected": str}, place)
        report.read += 1
        prompt, _, chosen = value["chosen"].rpartition(_LAST)
        other_prompt, _, rejected = value["rejected"].rpartition(_LAST)
        messages = _messages(prompt)
        if value["chosen"] == value["rejected"]:
            report.drop("chosen equals rejected", place)
        elif prompt != other_prompt:
            report.drop("the dialogues differ before the last turn", place)
        elif not chosen.strip() or not rejected.strip():
            report.drop("empty completion", place)
        elif _TURN.search(chosen) or _TURN.search(rejected):
            report.drop("the dialogue goes on after the last Assistant turn", place)
        elif messages is None:
            report.drop("Human and Assistant do not alternate", place)
        else:
            yield {"id": id_, "prompt": messages, "chosen": chosen.strip(), "rejected": rejected.strip()}


def _messages(prompt: str) -> list[dict[str, str]] | None:
    """The turns of a prompt; None unless Human and Assistant alternate and Human begins and ends."""
    lead, *turns = _TURN.split(prompt)
    speakers, contents = turns[::2], turns[1::2]
    alternating = all(speaker == due for speaker, due in zip(speakers, cycle(_ROLES), strict=False))
    if lead.strip() or len(speakers) % 2 == 0 or not alternating:
        return None
    return [
        {"role": _ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(speakers, contents, strict=True)
    ]
