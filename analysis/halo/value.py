"""Value functions: what an outcome is worth to a loss, and to the median person of Tversky and Kahneman (1992).

x is the implied reward relative to the reference point, in the loss's own unit. The value of an outcome is minus the
loss, so that the reference point is worth 0. For a completion that people disliked a gain is a *lower* reward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from analysis.halo.probe import DISLIKED, TOKENS, USUAL_NATS, Probe, Reading

Numbers = NDArray[np.float64]

STEP = 0.01
"""Distance of neighbouring points of a curve. No point is at 0, 1, 2, ..., where losses have their kinks."""
WIDEST = 10.0
"""A curve reaches from -WIDEST to WIDEST, or as far as a completion can go."""
NEAR = 1e-9
"""Where the slopes on either side of the reference point are read."""
SILENT = 1e-12
"""A slope or curvature below this is rounding: parts of a loss that cancel."""
ALPHA, LOSS_AVERSION = 0.88, 2.25
"""Median parameters of Tversky & Kahneman (1992), "Advances in prospect theory", for gambles with money."""
UNIT_NATS = "nats of log-ratio"


@dataclass(frozen=True)
class ValueFunction:
    """How one class of completions is valued. ``read`` takes (n,) float64 points x.

    ``scale``: implied reward per nat of log-ratio. ``logged``: whether it is the reward that the loss logs; otherwise x
    is in nats of log-ratio. ``largest``: the largest x that a completion can have; ``usual``: the largest x of one of
    20 tokens of -3 nats each.
    """

    role: str
    scale: float
    logged: bool
    largest: float
    usual: float
    read: Callable[[Tensor], Reading]

    @property
    def disliked(self) -> bool:
        """Whether people disliked these completions, so that a gain is a lower reward."""
        return self.role in DISLIKED

    @property
    def unit(self) -> str:
        """Unit of x."""
        return "implied reward" if self.logged else UNIT_NATS

    def at(self, points: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Value relative to the reference point, slope and curvature at (n,) points x; NaN where infeasible."""
        inside = points <= self.largest
        found = np.full((3, len(points)), np.nan)
        zero = float(self.read(torch.zeros(1, dtype=torch.float64)).loss)
        reading = self.read(torch.from_numpy(points[inside]))
        found[:, inside] = np.stack([zero - reading.loss.numpy(), -reading.slope.numpy(), -reading.curvature.numpy()])
        found[1:][np.abs(found[1:]) < SILENT] = 0.0
        return found[0], found[1], found[2]


@dataclass(frozen=True)
class Curve:
    """A value function on a grid x: (n,) value and slope.

    Training follows slopes. Where a loss holds a part of itself constant (an advantage, say), its differences are not
    the integral of its slope: ``value`` is then that integral, and ``held_constant`` true.
    """

    function: ValueFunction
    x: Numbers
    value: Numbers
    slope: Numbers
    held_constant: bool


def value_functions(loss_probe: Probe) -> list[ValueFunction]:
    """One for each class of completions that the loss sees, while all else is at the reference point."""
    return [_value_function(loss_probe, role) for role in loss_probe.roles]


def _value_function(loss_probe: Probe, role: str) -> ValueFunction:
    logged = loss_probe.scale(role)
    scale = 1.0 if logged is None else logged

    def read(points: Tensor) -> Reading:
        reading = loss_probe.read(role, points / scale)
        return Reading(reading.loss, reading.slope / scale, reading.curvature / scale**2)

    return ValueFunction(role, scale, logged is not None, loss_probe.largest * scale, TOKENS * USUAL_NATS * scale, read)


def kahneman_tversky() -> ValueFunction:
    """x^alpha for gains, -lambda (-x)^alpha for losses, with the median parameters."""

    def read(points: Tensor) -> Reading:
        size, gain = points.abs(), points > 0
        weight = torch.where(gain, 1.0, LOSS_AVERSION).to(torch.float64)
        sign = torch.where(gain, 1.0, -1.0).to(torch.float64)
        return Reading(
            loss=-sign * weight * size**ALPHA,
            slope=-weight * ALPHA * size ** (ALPHA - 1),
            curvature=-sign * weight * ALPHA * (ALPHA - 1) * size ** (ALPHA - 2),
        )

    return ValueFunction("gamble", 1.0, True, float("inf"), float("inf"), read)


def curve(function: ValueFunction, widest: float = WIDEST) -> Curve:
    """``function`` from -widest to widest, or to its largest x."""
    half = (np.arange(round(widest / STEP)) + 0.5) * STEP
    x = np.concatenate([-half[::-1], half])
    x = x[x < function.largest]
    value, slope, _ = function.at(x)
    integral = _integral(x, slope)
    finite = np.isfinite(value) & np.isfinite(integral)
    gap = float(np.abs(value - integral)[finite].max(initial=0.0))
    held = gap > 0.02 * float(np.abs(np.concatenate([value[finite], integral[finite]])).max(initial=0.0)) + 1e-9
    return Curve(function, x, integral if held else value, slope, held)


def _integral(x: Numbers, slope: Numbers) -> Numbers:
    """Of the slope from 0 to each x, by the trapezoid rule; from the nearest point to 0 the slope is constant."""
    steps = np.diff(x) * (slope[1:] + slope[:-1]) / 2
    total = np.concatenate([[0.0], np.cumsum(steps)])
    first_gain = int(np.searchsorted(x, 0.0))
    at_zero = total[first_gain] - slope[first_gain] * x[first_gain] if first_gain < len(x) else total[-1]
    return np.asarray(total - at_zero)
