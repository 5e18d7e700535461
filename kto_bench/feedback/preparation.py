"""From a source to what a run uses of it: rows to train on, rows held out, demonstrations, and counts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kto_bench.feedback.conversions import as_demonstrations, question_key
from kto_bench.feedback.decontamination import Overlaps, decontaminated
from kto_bench.feedback.duplicates import repetitions
from kto_bench.feedback.mixtures import rows_by_source
from kto_bench.feedback.splits import split_by_prompt, without_prompts
from kto_bench.feedback.types import Feedback, FeedbackError, FeedbackSource
from kto_bench.seeds import derive


@dataclass(frozen=True)
class Prepared:
    """Three sets of rows, of which the held-out one has no prompt in common with the others."""

    train: Feedback
    heldout: Feedback
    demonstrations: Feedback
    summary: dict[str, Any]
    """Counts for the record, as JSON values."""


def prepare(source: FeedbackSource, texts: Mapping[str, Sequence[str]]) -> Prepared:
    """Load ``source``, hold out prompts, and leave out what overlaps with ``texts`` where it is to be decontaminated.

    ``texts``: what the run is evaluated on, by name. Held-out rows are the source's own (a published test split), or a
    share of all. Raises FeedbackError for unusable feedback, and where nothing is left to train on.
    """
    everything, heldout = source.load(), source.heldout()
    if heldout is None:
        train, heldout = split_by_prompt(everything, source.heldout_fraction, derive(0, "heldout"))
    else:
        train = without_prompts(everything, heldout.rows)
    demonstrations = source.demonstrations()
    if demonstrations is not None:
        demonstrations = without_prompts(demonstrations, heldout.rows)
    contaminated: dict[str, Any] = {}
    if source.decontaminate is not None:
        overlaps = Overlaps(texts, source.decontaminate.words)
        train, contaminated["contaminated"] = decontaminated(train, overlaps)
        if demonstrations is not None:
            demonstrations, contaminated["contaminated_demonstrations"] = decontaminated(demonstrations, overlaps)
    if not train.rows:
        raise FeedbackError(f"feedback {source.name!r}: no row is left to train on; left out: {train.dropped}")
    own = demonstrations is not None
    shown = demonstrations or as_demonstrations(train)
    sources, origin = rows_by_source(train), source.origin()
    summary = {
        "kind": train.kind,
        "rows": len(train),
        "heldout_rows": len(heldout),
        "demonstrations": len(shown),
        "prompts": {"train": _prompts(train), "heldout": _prompts(heldout)},
        "dropped": train.dropped,
        "first_dropped": train.first_dropped,
        **({"demonstrations_dropped": shown.dropped} if own and shown.dropped else {}),
        **({"sources": sources} if sources else {}),
        **({"origin": origin} if origin else {}),
        "repetitions": repetitions(train),
        **contaminated,
    }
    return Prepared(train, heldout, shown, summary)


def _prompts(feedback: Feedback) -> int:
    return len({question_key(row.prompt) for row in feedback.rows})
