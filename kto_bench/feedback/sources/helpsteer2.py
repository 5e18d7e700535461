"""HelpSteer2 (Wang et al. 2024, https://hf.co/datasets/nvidia/HelpSteer2): human ratings of two responses a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from kto_bench.feedback.scores import Scored, ScoreRule, in_prompts, preferred
from kto_bench.feedback.sources.published import PublishedSet, require
from kto_bench.feedback.sources.records import Drop, Record
from kto_bench.feedback.sources.ultrafeedback import binary_rows
from kto_bench.feedback.types import FeedbackError, FeedbackKind

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
PREFERENCES = "preference"
_TURN = re.compile(r"\s*<extra_id_1>(User|Assistant)\n")
_ROLES = {"User": "user", "Assistant": "assistant"}


class HelpSteer2(PublishedSet):
    """Responses rated 0 to 4 in five attributes; the two responses to a prompt stand one after the other.

    ``read_as``: "binary" labels each response by ``attribute`` and ``scores`` (default: helpfulness of 4 is desirable,
    3 and less is not, as Jung et al. 2024 do); "paired" prefers the one that is better in ``attribute``, ties left out;
    "preference" takes the annotators' own preference (the folder "preference", of which ``split`` is a field), of at
    least ``scores.margin``, where 1, 2 and 3 are slightly, simply and much better. Prompts of several turns are parted
    where the set marks them.
    """

    name: str = "helpsteer2"
    hub: str = "nvidia/HelpSteer2"
    read_as: Literal["binary", "paired", "preference"] = "binary"
    attribute: Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"] = "helpfulness"
    scores: ScoreRule = Field(ScoreRule(threshold=4), validate_default=True)
    rows_are: ClassVar = "binary"

    def kind(self) -> FeedbackKind:
        """Binary or paired."""
        return "binary" if self.read_as == "binary" else "paired"

    def hub_arguments(self, split: str) -> dict[str, Any]:
        """All preferences are one file, whatever their split."""
        arguments = super().hub_arguments(split)
        return {**arguments, "data_dir": PREFERENCES, "split": "train"} if self._preferences else arguments

    def convert(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        """One row for each response, or one for each pair."""
        return self._by_preference(records, self.split, drop) if self._preferences else self._by_rating(records, drop)

    def _load(self, split: str, limit: int | None) -> Any:
        if self._preferences and split != self.split:  # the split is a field of the records
            return self.model_copy(update={"split": split, "heldout_split": None})._load(split, limit)
        return super()._load(split, limit)

    def _root(self, path: Path) -> Path:
        """Of a clone of the repository, the folder that is read."""
        root = super()._root(path)
        inner = root / PREFERENCES
        return inner if self._preferences and inner.is_dir() else root

    def _has_both(self, path: Path) -> bool:
        return self._preferences or super()._has_both(path)

    @property
    def _preferences(self) -> bool:
        return self.read_as == "preference"

    def _by_rating(self, records: Iterator[Record], drop: Drop) -> Iterator[Record]:
        for group in in_prompts(self._scored(record) for record in records):
            if self.read_as == "binary":
                yield from binary_rows(group, self.scores, drop)
                continue
            pair = preferred(group[0], group[1], self.scores) if len(group) == 2 else None
            if pair is None:
                drop("not two responses with different ratings", group[0].place)
            else:
                row = {"prompt": list(pair[0].prompt), "chosen": pair[0].completion, "rejected": pair[1].completion}
                yield Record(group[0].id, group[0].place, row)

    def _scored(self, record: Record) -> Scored:
        require(record.value, {"prompt": str, "response": str, self.attribute: int}, record.place)
        messages = tuple(turns(record.value["prompt"]))
        return Scored(record.id, record.place, messages, record.value["response"], record.value[self.attribute])

    def _by_preference(self, records: Iterator[Record], split: str, drop: Drop) -> Iterator[Record]:
        known = {"train": "train", "validation": "val"}
        if split not in known:
            raise FeedbackError(
                f"feedback.split: HelpSteer2's preferences have no {split!r}: choose {' or '.join(known)}"
            )
        for record in records:
            fields = {"prompt": str, "response_1": str, "response_2": str, "preference_strength": int, "split": str}
            require(record.value, fields, record.place)
            value = record.value
            strength = value["preference_strength"]  # -3: the first is much better; 3: the second is
            if value["split"] != known[split]:
                continue
            if strength == 0 or abs(strength) < self.scores.margin:
                drop("no preference, or too weak a one", record.place)
                continue
            better, worse = ("response_1", "response_2") if strength < 0 else ("response_2", "response_1")
            row = {"prompt": turns(value["prompt"]), "chosen": value[better], "rejected": value[worse]}
            yield Record(record.id, record.place, row)


def turns(prompt: str) -> list[dict[str, str]]:
    """The messages of a prompt, which begins with the user's and marks where the others begin."""
    first, *rest = _TURN.split(prompt)
    speakers, contents = ["User", *rest[::2]], [first, *rest[1::2]]
    return [{"role": _ROLES[who], "content": what} for who, what in zip(speakers, contents, strict=True)]
