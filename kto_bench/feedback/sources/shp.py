"""Stanford Human Preferences (Ethayarajh et al. 2022, https://hf.co/datasets/stanfordnlp/SHP): votes on Reddit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from kto_bench.feedback.sources.published import PublishedSet, require, user
from kto_bench.feedback.sources.records import Drop, Record
from kto_bench.feedback.types import Demonstration, Feedback
from kto_bench.seeds import derive

NUMBER = (int, float)


class SHP(PublishedSet):
    """Pairs of comments on a post, of which the later one has more votes; ``data_dir`` is one of the 18 domains.

    Kept are pairs whose votes differ by a factor of ``min_score_ratio`` or more, and of these at most
    ``max_pairs_per_prompt`` for each post (posts of one text are one prompt), drawn at random by ``seed`` and the texts
    alone. The KTO paper's settings are the defaults. Demonstrations for SFT are the preferred comments: of each post,
    that of the pair with the most votes.
    """

    rows_are: ClassVar = "paired"
    name: str = "shp"
    hub: str = "stanfordnlp/SHP"
    min_score_ratio: float = Field(2.0, ge=1)
    max_pairs_per_prompt: int | None = Field(5, ge=1)
    seed: int = Field(0, ge=0, description="which pairs of a post are kept; a run's own seed does not change it")

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each pair that is kept, in the order of the set."""
        rows: list[tuple[Record, str]] = []
        for record in records:
            value = record.value
            fields = {"history": str, "human_ref_A": str, "human_ref_B": str}
            require(value, {**fields, "labels": int, "score_ratio": NUMBER}, record.place)
            if value["labels"] not in (0, 1):
                drop("labels is neither 0 nor 1", record.place)
            elif value["score_ratio"] < self.min_score_ratio:
                drop(f"score ratio below {self.min_score_ratio:g}", record.place)
            else:
                rows.append((record, value["history"]))
        for record, _ in self._at_most(rows, drop):
            yield Record(record.id, record.place, _row(record))

    def demonstrations(self) -> Feedback:
        """One preferred comment for each post, that with the most votes in any of its pairs."""
        best: dict[str, tuple[int, Record]] = {}
        for record in self.records(self.split):
            value = record.value
            require(value, {"history": str, "score_A": int, "score_B": int, "labels": int}, record.place)
            require(value, {"score_ratio": NUMBER}, record.place)
            votes = value["score_A"] if value["labels"] == 1 else value["score_B"]
            usable = value["score_ratio"] >= self.min_score_ratio and str(_row(record)["chosen"]).strip()
            if usable and votes > best.get(value["history"], (-1, record))[0]:
                best[value["history"]] = (votes, record)
        rows = []
        for row in self.load().rows:
            found = best.pop(row.prompt[-1]["content"], None)
            if found is not None:
                rows.append(Demonstration(row.id, row.prompt, str(_row(found[1])["chosen"])))
        return Feedback("demonstrations", rows)

    def _at_most(self, rows: list[tuple[Record, str]], drop: Drop) -> list[tuple[Record, str]]:
        if self.max_pairs_per_prompt is None:
            return rows
        by_prompt: dict[str, list[tuple[int, str, int]]] = {}
        for number, (record, prompt) in enumerate(rows):
            value = record.value
            names = sorted([value["human_ref_A"], value["human_ref_B"]])
            by_prompt.setdefault(prompt, []).append((derive(self.seed, "shp", prompt, *names), record.id, number))
        kept = {place[2] for places in by_prompt.values() for place in sorted(places)[: self.max_pairs_per_prompt]}
        for number, (record, _) in enumerate(rows):
            if number not in kept:
                drop(f"the post has {self.max_pairs_per_prompt} other pairs", record.place)
        return [row for number, row in enumerate(rows) if number in kept]


def _row(record: Record) -> dict[str, object]:
    value = record.value
    better, worse = ("human_ref_A", "human_ref_B") if value["labels"] == 1 else ("human_ref_B", "human_ref_A")
    return {"prompt": user(value["history"]), "chosen": value[better], "rejected": value[worse]}
