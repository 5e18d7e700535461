"""Anthropic HH-RLHF (Bai et al. 2022, https://hf.co/datasets/Anthropic/hh-rlhf): preferences between dialogues."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import cycle
from typing import ClassVar

from kto_bench.feedback.sources.published import PublishedSet, require
from kto_bench.feedback.sources.records import Drop, Record

_LAST = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


class HHRLHF(PublishedSet):
    """Dialogues as ``chosen`` and ``rejected``, each split at its last "Assistant:" into prompt and completion.

    Left out and counted: pairs with equal sides, pairs that differ before the last turn (there is no common prompt),
    empty completions, dialogues that go on after the last Assistant turn, and prompts in which one side speaks twice in
    a row (chat templates refuse them). White space around turns is the notation's and is removed. ``data_dir`` is one
    of harmless-base, helpful-base, helpful-online and helpful-rejection-sampled; null is all of them.
    """

    rows_are: ClassVar = "paired"
    name: str = "hh_rlhf"
    hub: str = "Anthropic/hh-rlhf"

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each usable pair."""
        for record in records:
            require(record.value, {"chosen": str, "rejected": str}, record.place)
            value = record.value
            prompt, _, chosen = value["chosen"].rpartition(_LAST)
            other_prompt, _, rejected = value["rejected"].rpartition(_LAST)
            messages = _messages(prompt)
            if value["chosen"] == value["rejected"]:
                drop("chosen equals rejected", record.place)
            elif prompt != other_prompt:
                drop("the dialogues differ before the last turn", record.place)
            elif not chosen.strip() or not rejected.strip():
                drop("empty completion", record.place)
            elif _TURN.search(chosen) or _TURN.search(rejected):
                drop("the dialogue goes on after the last Assistant turn", record.place)
            elif messages is None:
                drop("Human and Assistant do not alternate", record.place)
            else:
                row = {"prompt": messages, "chosen": chosen.strip(), "rejected": rejected.strip()}
                yield Record(record.id, record.place, row)


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
