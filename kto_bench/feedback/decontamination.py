"""Feedback that the evaluation asks about: found by words that both have in a row. Pure functions of texts.

The rule is that of GPT-3 (Brown et al. 2020, appendix C): an overlap of ``words`` words, lower-cased, without
punctuation; 13 there. Evaluation texts that are shorter count where a text of the feedback is the same, whole, unless
they are so short (answers, mostly) that this would mean nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kto_bench.feedback.types import Feedback

_WORD = re.compile(r"\w+")
CONTAMINATED = "shares words with an evaluation text"
SHOWN = 3
LEAST_WORDS = 5
"""A text of fewer words is compared with nothing."""


class Overlaps:
    """The runs of ``words`` words of named sets of texts."""

    def __init__(self, texts: Mapping[str, Iterable[str]], words: int) -> None:
        """``texts``: by the name that they are counted under."""
        self.words = words
        self.sizes: dict[str, int] = {}
        # Millions of runs: a bit for each set takes a fraction of the memory that a set of names would.
        self._runs: dict[str, int] = {}
        self._whole: dict[str, int] = {}
        for number, (name, members) in enumerate(texts.items()):
            bit = 1 << number
            self.sizes[name] = 0
            for text in members:
                self.sizes[name] += 1
                split = _words(text)
                if len(split) < words:
                    if len(split) >= LEAST_WORDS:
                        whole = " ".join(split)
                        self._whole[whole] = self._whole.get(whole, 0) | bit
                    continue
                for run in _runs(split, words):
                    self._runs[run] = self._runs.get(run, 0) | bit

    def of(self, text: str) -> set[str]:
        """The names of the sets with which ``text`` has an overlap."""
        split = _words(text)
        found = self._whole.get(" ".join(split), 0) if len(split) < self.words else 0
        for run in _runs(split, self.words):
            found |= self._runs.get(run, 0)
        return {name for number, name in enumerate(self.sizes) if found >> number & 1}


def decontaminated(feedback: Feedback, overlaps: Overlaps) -> tuple[Feedback, dict[str, Any]]:
    """``feedback`` without the rows of which a message or a completion overlaps, and the counts of them.

    The counts: rows looked at and left out, left out by set (a row may overlap with several), texts of each set, and
    the ids of the first few rows.
    """
    by_set: Counter[str] = Counter()
    kept, hit = [], []
    known: dict[str, set[str]] = {}  # turns recur in many rows
    for row in feedback.rows:
        names: set[str] = set()
        for text in _texts(row):
            if text not in known:
                known[text] = overlaps.of(text)
            names |= known[text]
        by_set.update(names)
        if names:
            hit.append(row.id)
        else:
            kept.append(row)
    counts = {
        "words": overlaps.words,
        "rows": len(feedback),
        "left_out": len(hit),
        "by_set": {name: by_set[name] for name in overlaps.sizes},
        "texts": overlaps.sizes,
        "ids": hit[:SHOWN],
    }
    return feedback.without(kept, CONTAMINATED), counts


def _texts(row: Any) -> Iterator[str]:
    yield from (message["content"] for message in row.prompt)
    yield from (getattr(row, side) for side in ("completion", "chosen", "rejected") if hasattr(row, side))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(split: list[str], words: int) -> Iterator[str]:
    for start in range(len(split) - words + 1):
        yield " ".join(split[start : start + words])
