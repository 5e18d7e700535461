"""Alpaca (Taori et al. 2023, https://hf.co/datasets/tatsu-lab/alpaca) and sets of its format: instructions for SFT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from kto_bench.feedback.sources.published import PublishedSet, require, user
from kto_bench.feedback.sources.records import Drop, Record


class Alpaca(PublishedSet):
    """``instruction``, ``input`` (may be empty or absent) and ``output``, as demonstrations.

    The prompt is the instruction, and the input after an empty line; Alpaca's own headings are a chat template, which
    is the model's to choose.
    """

    rows_are: ClassVar = "demonstrations"
    name: str = "alpaca"
    hub: str = "tatsu-lab/alpaca"

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each instruction."""
        for record in records:
            require(record.value, {"instruction": str, "output": str}, record.place)
            instruction, given = record.value["instruction"].strip(), (record.value.get("input") or "").strip()
            prompt = f"{instruction}\n\n{given}" if given else instruction
            yield Record(record.id, record.place, {"prompt": user(prompt), "completion": record.value["output"]})
