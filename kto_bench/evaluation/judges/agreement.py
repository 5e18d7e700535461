"""How far a judge's verdicts depend on what should not matter: the order of the outputs, and chance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev, variance


@dataclass(frozen=True)
class Verdict:
    """One comparison of one prompt: ``ours`` is the place (1 or 2) at which the judge saw our output, ``preference``
    that of ours, from 0 to 1, and ``answer`` what the judge said."""

    prompt_id: str
    ours: int
    repeat: int
    preference: float
    answer: str

    @property
    def for_first(self) -> float:
        """The preference for the output that was shown first, from 0 to 1."""
        return self.preference if self.ours == 1 else 1.0 - self.preference


def position_bias(verdicts: Sequence[Verdict]) -> dict[str, float | int | None]:
    """``first_preferred``: the mean preference for the output that is shown first; 0.5 means no bias.

    Its ``standard_error`` is over ``n`` prompts (None for one prompt). Where prompts were judged in both orders,
    ``consistent`` is the share of them whose verdict was the same in both; the content then cancels out, and otherwise
    it does on average, since orders are drawn at random.
    """
    by_prompt: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_prompt[verdict.prompt_id].append(verdict)
    first = [fmean(verdict.for_first for verdict in of) for of in by_prompt.values()]
    bias: dict[str, float | int | None] = {"first_preferred": fmean(first), "n": len(first)}
    bias["standard_error"] = stdev(first) / math.sqrt(len(first)) if len(first) > 1 else None
    both = [_by_order(of) for of in by_prompt.values() if len({verdict.ours for verdict in of}) == 2]
    if both:
        bias["consistent"] = fmean(_winner(orders[1]) == _winner(orders[2]) for orders in both)
    return bias


def noise(verdicts: Sequence[Verdict], prompts: int) -> dict[str, float | int]:
    """From questions that were asked more than once:

    ``differing``: the share of pairs of answers to one question that state different preferences; ``deviation``: the
    standard deviation of the preference within a question (root of the mean unbiased variance); ``standard_error``:
    how much of the standard error of the win rate over ``prompts`` prompts the judge's noise alone makes, with the
    means over orders and repeats as they are; ``n`` questions.
    """
    questions: dict[tuple[str, int], list[float]] = defaultdict(list)
    for verdict in verdicts:
        questions[verdict.prompt_id, verdict.ours].append(verdict.preference)
    repeated = {key: values for key, values in questions.items() if len(values) > 1}
    orders: dict[str, int] = defaultdict(int)
    for prompt_id, _ in questions:
        orders[prompt_id] += 1
    of_mean = sum(
        variance(values) / len(values) / orders[prompt_id] ** 2 for (prompt_id, _), values in repeated.items()
    )
    return {
        "differing": fmean(fmean(a != b for a, b in combinations(values, 2)) for values in repeated.values()),
        "deviation": math.sqrt(fmean(variance(values) for values in repeated.values())),
        "standard_error": math.sqrt(of_mean) / prompts,
        "n": len(repeated),
    }


def _by_order(verdicts: Sequence[Verdict]) -> dict[int, float]:
    return {place: fmean(one.preference for one in verdicts if one.ours == place) for place in (1, 2)}


def _winner(preference: float) -> int:
    """1: ours, -1: the other, 0: neither."""
    return (preference > 0.5) - (preference < 0.5)
