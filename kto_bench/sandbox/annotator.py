"""A simulated annotator: it perceives gold utility with noise and values it as people do.

    z = u + e - r,  e ~ N(0, noise^2)                         what is perceived, relative to the reference point r
    v(z) = z^alpha if z >= 0, else -lambda (-z)^alpha         value
    P(first preferred) = sigmoid((v_1 - v_2) / tau)           choice between two
    P(thumbs up) = sigmoid(v / tau)                           judgement of one

The value function is that of Kahneman and Tversky, "Prospect Theory" (1979), with the medians that Tversky and Kahneman
(1992, Journal of Risk and Uncertainty 5, section 2.3) estimated: alpha = 0.88, lambda = 2.25. It is the value function
that the KTO paper (Ethayarajh et al. 2024, equation 5) starts from. The choice rule is Luce's (Bradley-Terry on v).
"""

from __future__ import annotations

import math
import random

from pydantic import Field

from kto_bench.component import Component


class Annotator(Component):
    """Someone who labels responses. ``rng`` is where its noise comes from; nothing else is random."""

    noise: float = Field(0.25, ge=0)
    """SD of the perception noise, in units of utility."""
    reference_point: float = 0.3
    """The utility that feels like neither a gain nor a loss."""
    risk_aversion: float = Field(0.88, gt=0, le=1)
    """alpha: 1 is a linear value."""
    loss_aversion: float = Field(2.25, gt=0)
    """lambda: 1 weighs losses like gains."""
    temperature: float = Field(0.35, gt=0)
    """tau: how often the worse one is chosen; towards 0 never."""

    def value(self, utility: float, rng: random.Random) -> float:
        """v of a response of gold ``utility``, perceived once more with fresh noise."""
        z = utility + rng.gauss(0, self.noise) - self.reference_point
        return z**self.risk_aversion if z >= 0 else -self.loss_aversion * (-z) ** self.risk_aversion

    def prefers_first(self, first: float, second: float, rng: random.Random) -> bool:
        """Whether a response of utility ``first`` is chosen over one of utility ``second``."""
        return rng.random() < _sigmoid((self.value(first, rng) - self.value(second, rng)) / self.temperature)

    def approves(self, utility: float, rng: random.Random) -> bool:
        """Whether a response of gold ``utility`` gets a thumbs up."""
        return rng.random() < _sigmoid(self.value(utility, rng) / self.temperature)


def _sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2
