"""Whether the weights of the two classes suit their sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUNDING = 1e-9


@dataclass(frozen=True)
class RatioAdvice:
    """Someone's advice: lambda_D n_D / (lambda_U n_U) from ``low`` to ``high``, and who says so."""

    low: float
    high: float
    source: str


def ratio_warnings(advice: RatioAdvice, weights: tuple[float, float], counts: tuple[int, int]) -> list[str]:
    """One sentence when lambda_D n_D / (lambda_U n_U) is outside the advised range, with a weight that is inside.

    ``weights`` and ``counts`` are those of desirable and undesirable completions. The class of fewer completions is the
    one to be reweighted. A class without weight or without completions is left out on purpose, which needs no warning.
    """
    desirable, undesirable = (weight * count for weight, count in zip(weights, counts, strict=True))
    if not desirable or not undesirable:
        return []
    ratio = desirable / undesirable
    if advice.low * (1 - _ROUNDING) <= ratio <= advice.high * (1 + _ROUNDING):
        return []
    changed, low, high = advised_weight(advice, weights, counts)
    kept = "undesirable_weight" if changed == "desirable_weight" else "desirable_weight"
    return [
        f"desirable_weight * desirable completions / (undesirable_weight * undesirable completions) is {ratio:.3g} "
        f"({weights[0]:g} * {counts[0]} / ({weights[1]:g} * {counts[1]})), outside the advised "
        f"{advice.low:g} to {advice.high:g} ({advice.source}); set {changed} between "
        f"{low:.12g} and {high:.12g} and leave {kept} as it is"
    ]


def advised_weight(
    advice: RatioAdvice, weights: tuple[float, float], counts: tuple[int, int]
) -> tuple[str, float, float]:
    """The weight to change, and the range in which it brings the ratio into the advised one; see ``ratio_warnings``.

    No weight and no count may be 0.
    """
    desirable, undesirable = (weight * count for weight, count in zip(weights, counts, strict=True))
    if counts[0] <= counts[1]:
        changed = "desirable_weight"
        low, high = (bound * undesirable / counts[0] for bound in (advice.low, advice.high))
    else:
        changed = "undesirable_weight"
        low, high = (desirable / counts[1] / bound for bound in (advice.high, advice.low))
    # Four digits, rounded towards the inside of the range.
    low = math.ceil(low * _digits(low) * (1 - _ROUNDING)) / _digits(low)
    high = math.floor(high * _digits(high) * (1 + _ROUNDING)) / _digits(high)
    return changed, low, high


def _digits(value: float) -> float:
    """What to scale a positive value by so that its first four digits are before the point."""
    return 10.0 ** (3 - math.floor(math.log10(value)))
