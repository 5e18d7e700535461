"""UltraChat 200k (Ding et al. 2023, https://hf.co/datasets/HuggingFaceH4/ultrachat_200k): dialogues for SFT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from kto_bench.feedback.sources.published import PublishedSet, require
from kto_bench.feedback.sources.records import Drop, Record


class UltraChat(PublishedSet):
    """Any set of dialogues as lists of ``messages``, as demonstrations: one row for each turn of the assistant.

    ``turns`` "last" keeps the last turn of each dialogue only. "every" trains on as many tokens as a loss over all
    turns of whole dialogues does, each turn with what went before it as the prompt.
    """

    rows_are: ClassVar = "demonstrations"
    name: str = "ultrachat"
    hub: str = "HuggingFaceH4/ultrachat_200k"
    split: str = "train_sft"
    turns: Literal["every", "last"] = Field("every", description="which turns of the assistant are demonstrations")

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each turn that is wanted, called after the number of its message."""
        for record in records:
            require(record.value, {"messages": list}, record.place)
            messages = record.value["messages"]
            for message in messages:
                require(message, {"role": str, "content": str}, f"{record.place}, messages")
            places = [place for place, message in enumerate(messages) if message["role"] == "assistant" and place > 0]
            if not places:
                drop("no turn of the assistant", record.place)
            for place in places if self.turns == "every" else places[-1:]:
                row = {"prompt": messages[:place], "completion": messages[place]["content"]}
                yield Record(f"{record.id}/{place}", record.place, row)
