"""Numbers that describe a value function: slopes, loss aversion, curvature, and where it does not care."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.halo.value import NEAR, WIDEST, Curve, Numbers, ValueFunction, curve

VANISHING = 0.05
"""A gradient has vanished where the slope is below this share of the largest slope of the curve, or, where slopes grow
without end, of the one at the reference point."""
SHAPED = 4.0
"""Curvature is judged for |x| up to this, the range of the figures."""


@dataclass(frozen=True)
class Shape:
    """What a value function looks like. Slopes are per unit of x; aversion is |v'| at a loss over |v'| at a gain.

    ``slope_loss`` and ``slope_gain`` are read just beside the reference point. ``aversion`` maps 0 (the limit), 1 and 2
    to the ratio at losses and gains of that size; NaN where a completion cannot get there or nothing moves.
    ``curvature`` maps 1 and 2 to the second derivative at a loss and at a gain of that size. ``vanishing`` are the
    intervals of x in which the gradient has vanished, ``steepest`` the largest |slope|, ``largest`` where the curve
    ends. ``still_steeper``: the slope still grows at an end of the curve, and ``steepest`` depends on where that is.
    """

    slope_loss: float
    slope_gain: float
    aversion: dict[float, float]
    in_gains: str
    in_losses: str
    curvature: dict[float, tuple[float, float]]
    vanishing: tuple[tuple[float, float], ...]
    steepest: float
    still_steeper: bool
    largest: float


def describe(function: ValueFunction) -> Shape:
    """Measure ``function``."""
    drawn = curve(function)
    gain = -1.0 if function.disliked else 1.0  # the direction in which the outcome gets better for people
    sizes = (NEAR, 1.0 + NEAR, 2.0 + NEAR)  # just beyond the kinks that losses may have at whole numbers
    _, at_gains, bend_gains = function.at(np.array([gain * size for size in sizes]))
    _, at_losses, bend_losses = function.at(np.array([-gain * size for size in sizes]))
    shaped = np.abs(drawn.x) <= SHAPED
    gains = shaped & (drawn.x * gain > 0)
    losses = shaped & (drawn.x * gain < 0)
    endless, steepest = _still_steeper(drawn), float(np.nanmax(np.abs(drawn.slope)))
    at_reference = max(abs(float(at_gains[0])), abs(float(at_losses[0])))
    return Shape(
        slope_loss=float(at_losses[0]),
        slope_gain=float(at_gains[0]),
        aversion={round(size): _ratio(lost, won) for size, lost, won in zip(sizes, at_losses, at_gains, strict=True)},
        in_gains=bend(drawn.slope[gains], drawn.slope),
        in_losses=bend(drawn.slope[losses], drawn.slope),
        curvature={size: (float(bend_losses[i]), float(bend_gains[i])) for i, size in ((1, 1.0), (2, 2.0))},
        vanishing=vanishing(drawn, VANISHING * (at_reference if endless and at_reference > 0 else steepest)),
        steepest=steepest,
        still_steeper=endless,
        largest=min(WIDEST, function.largest),
    )


def bend(slope: Numbers, whole: Numbers) -> str:
    """ "concave", "convex", "affine", "flat" or "mixed", from slopes in the order of x.

    What is below a thousand-millionth of the largest slope of the ``whole`` curve is rounding.
    """
    if not np.isfinite(slope).all() or len(slope) == 0:
        return "not a number"
    rounding = 1e-9 * float(np.nanmax(np.abs(whole)))
    if np.abs(slope).max() <= rounding:
        return "flat"
    steps = np.diff(slope)
    rises, falls = (steps > rounding).any(), (steps < -rounding).any()
    if rises and falls:
        return "mixed"
    return "convex" if rises else "concave" if falls else "affine"


def vanishing(drawn: Curve, threshold: float) -> tuple[tuple[float, float], ...]:
    """Intervals of x in which the slope is below ``threshold`` in size, or 0; their ends to STEP."""
    size = np.abs(drawn.slope)
    gone = (size < threshold) | (size == 0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], gone, [False]]).astype(int)))
    x = drawn.x
    middle = (x[1:] + x[:-1]) / 2
    found = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        low = x[0] if start == 0 else middle[start - 1]
        high = x[-1] if stop == len(x) else middle[stop - 1]
        found.append((float(low), float(high)))
    return tuple(found)


def _still_steeper(drawn: Curve) -> bool:
    """Whether the slope has grown by a twentieth or more over the last fifth of the curve, at either end."""
    size, fifth = np.abs(drawn.slope), len(drawn.x) // 5
    ends = [(size[0], size[fifth]), (size[-1], size[-1 - fifth])]
    return any(end > 1.05 * before and end >= np.nanmax(size) for end, before in ends)


def _ratio(lost: float, won: float) -> float:
    """|slope at the loss| / |slope at the gain|; infinite where only losses count, NaN where neither does."""
    if not (np.isfinite(lost) and np.isfinite(won)) or (lost == 0 and won == 0):
        return float("nan")
    return abs(float(lost)) / abs(float(won)) if won != 0 else float("inf")
