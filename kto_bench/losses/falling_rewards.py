"""Whether the implied rewards of both classes fell in a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

FEWEST_STEPS = 8
SMALLEST_FALL = 0.1
"""In units of the implied reward, beta * nats. At 0.1 KTO's value has moved by a fortieth of its range: a policy that
has moved less than that has hardly moved."""
STANDARD_ERRORS = 3.0


@dataclass(frozen=True)
class _Fall:
    first: float
    last: float


def falling_rewards_warnings(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """One sentence when the mean rewards of both classes fell between the first and the last quarter of the steps.

    ``metrics``: those of each step, in order; a step without a class lacks its statistic. Rewards start at 0, where
    policy = reference, so the last quarter must lie below 0 as well as below the first. (Without a reference the reward
    beta * log pi is always below 0, and only the fall counts.)

    A fall must be at least 0.1, and three standard errors of the difference, by the spread of the steps within each
    quarter. With fewer than 8 steps that have a class's rewards nothing is said.

    Source: the recommended settings of Ethayarajh et al. (2024), arXiv 2402.01306 versions 4 and 5, whose sign of too
    high a learning rate is that the rewards of both classes fall. The thresholds are ours.
    """
    falls = [_fall(metrics, f"rewards/{label}") for label in ("desirable", "undesirable")]
    if None in falls:
        return []
    shown = " and ".join(
        f"of {label} completions from {fall.first:.3g} to {fall.last:.3g}"
        for label, fall in zip(("desirable", "undesirable"), falls, strict=True)
        if fall is not None
    )
    return [
        f"the implied rewards fell in both classes, {shown} (means of the first and the last quarter of the steps), "
        "the KTO paper's sign of too high a learning rate; lower train.learning_rate"
    ]


def _fall(metrics: Sequence[Mapping[str, float]], name: str) -> _Fall | None:
    """What fell clearly, or None."""
    rewards = [step[name] for step in metrics if name in step and math.isfinite(step[name])]
    if len(rewards) < FEWEST_STEPS:
        return None
    quarter = len(rewards) // 4
    first, last = rewards[:quarter], rewards[-quarter:]
    start, end = fmean(first), fmean(last)
    # The quarters' own spread, not that of all steps: a steady fall is no noise.
    squares = sum((value - start) ** 2 for value in first) + sum((value - end) ** 2 for value in last)
    error = math.sqrt(squares / (2 * quarter - 2) * 2 / quarter)
    if min(start, 0.0) - end < max(SMALLEST_FALL, STANDARD_ERRORS * error):
        return None
    return _Fall(start, end)
