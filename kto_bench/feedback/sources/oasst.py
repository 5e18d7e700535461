"""OpenAssistant conversations (Köpf et al. 2023, https://hf.co/datasets/OpenAssistant/oasst1): ranked replies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field

from kto_bench.feedback.collector import Collector
from kto_bench.feedback.sources.published import PublishedSet, require
from kto_bench.feedback.sources.records import Drop, Record
from kto_bench.feedback.types import Feedback

_ROLES = {"prompter": "user", "assistant": "assistant"}


class OpenAssistant(PublishedSet):
    """Trees of messages in which people ranked the assistant's replies to the same message, 0 being the best.

    n ranked replies make the n - 1 pairs of neighbours in rank, best pair first; the prompt is the path from the root.
    Demonstrations for SFT are the preferred replies, those of rank 0. Left out and counted: messages in another
    ``language`` (and replies to them), deleted ones, replies whose conversation is not whole, and pairs of which the
    ranks are not neighbours since a reply between them is left out. The published validation split is held out.
    """

    rows_are: ClassVar = "paired"
    name: str = "oasst"
    hub: str = "OpenAssistant/oasst1"
    heldout_split: str | None = "validation"
    language: str | None = Field("en", description="of all messages of a conversation; null: any")

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """The pairs of neighbours in rank."""
        for prompt, replies in self._ranked(records, drop):
            for better, worse in pairwise(replies):
                if worse.value["rank"] - better.value["rank"] != 1:
                    drop("the ranks of two replies are not neighbours", worse.place)
                    continue
                row = {"prompt": prompt, "chosen": better.value["text"], "rejected": worse.value["text"]}
                yield Record(f"{better.value['message_id']}>{worse.value['message_id']}", better.place, row)

    def demonstrations(self) -> Feedback:
        """The reply of rank 0 to each message with ranked replies."""
        collector = Collector(strict=False)
        for prompt, (best, *_) in self._ranked(self.records(self.split), lambda reason, place: None):
            if best.value["rank"] == 0:
                row = {"prompt": prompt, "completion": best.value["text"]}
                collector.parse(row, best.value["message_id"], best.place)
        return Feedback("demonstrations", collector.rows)

    def _ranked(self, records: Iterator[Record], drop: Drop) -> Iterator[tuple[list[dict[str, str]], list[Record]]]:
        """(prompt, its replies from best to worst) for each message with two ranked replies or more."""
        messages: dict[str, Record] = {}
        for record in records:
            require(record.value, {"message_id": str, "text": str, "role": str}, record.place)
            if self.language is not None and record.value.get("lang") != self.language:
                drop(f"not in the language {self.language}", record.place)
            elif record.value.get("deleted"):
                drop("deleted", record.place)
            else:
                messages[record.value["message_id"]] = record
        replies: dict[str, list[Record]] = {}
        for record in messages.values():
            value = record.value
            if value["role"] == "assistant" and value.get("rank") is not None and value.get("parent_id") is not None:
                replies.setdefault(value["parent_id"], []).append(record)
        for parent, ranked in replies.items():
            path = _path(parent, messages)
            if path is None:
                drop("the conversation before the reply is not whole", ranked[0].place)
            elif len(ranked) > 1:
                yield path, sorted(ranked, key=lambda record: (record.value["rank"], record.value["message_id"]))


def _path(message_id: str | None, messages: dict[str, Record]) -> list[dict[str, str]] | None:
    """The messages from the root to ``message_id``; None where one is missing."""
    path: list[dict[str, Any]] = []
    while message_id is not None:
        record = messages.get(message_id)
        if record is None:
            return None
        path.append({"role": _ROLES.get(record.value["role"], ""), "content": record.value["text"]})
        message_id = record.value.get("parent_id")
    return path[::-1]
