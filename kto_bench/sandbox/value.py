"""The value of an outcome to people: prospect theory, in its cumulative form.

    v(x)   =  x^alpha                 if x >= 0                                           (value)
           = -lambda (-x)^beta        if x <  0
    w(p)   =  p^gamma / (p^gamma + (1 - p)^gamma)^(1 / gamma)                             (weight of a probability)

Sources: Kahneman and Tversky, "Prospect Theory" (1979); Tversky and Kahneman, "Advances in Prospect Theory" (1992,
Journal of Risk and Uncertainty 5), equations 5 (value) and 6 (weight), whose medians are alpha = beta = 0.88,
lambda = 2.25, and gamma = 0.61 for gains and 0.69 for losses. x is measured from a reference point. The KTO paper
(Ethayarajh et al. 2024, equation 5) starts from v; w is the capacity function of the humanline paper.

All functions take and return arrays of any shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ValueFunction:
    """The parameters of v and w. All ones: an expected utility that is linear in the outcome."""

    risk_aversion: float = 1.0
    """alpha."""
    risk_aversion_losses: float = 1.0
    """beta."""
    loss_aversion: float = 1.0
    """lambda."""
    probability_weighting: float = 1.0
    """gamma of gains."""
    probability_weighting_losses: float = 1.0
    """gamma of losses."""

    def value(self, outcome: Array) -> Array:
        """v of a sure ``outcome``."""
        size = np.abs(outcome)
        gains = size**self.risk_aversion
        return np.where(outcome >= 0, gains, -self.loss_aversion * size**self.risk_aversion_losses)

    def prospect(self, outcome: Array, other: Array, chance: float) -> Array:
        """V of a prospect: ``other`` with probability ``chance``, else ``outcome``.

        Cumulative prospect theory (Tversky and Kahneman 1992, equations 1 and 2): of two gains the smaller is had for
        sure and the rest of the larger one is weighted, of two losses likewise, and a gain and a loss are each
        weighted by themselves. A sure outcome has the value v, whatever gamma is.
        """
        if chance == 0:
            return self.value(outcome)
        better, worse = np.maximum(outcome, other), np.minimum(outcome, other)
        chance_of_better = np.where(other >= outcome, chance, 1 - chance)
        small_gain, small_loss = self.value(np.maximum(worse, 0)), self.value(np.minimum(better, 0))
        more_gain = self.value(np.maximum(better, 0)) - small_gain
        more_loss = self.value(np.minimum(worse, 0)) - small_loss
        gained = weight(chance_of_better, self.probability_weighting)
        lost = weight(1 - chance_of_better, self.probability_weighting_losses)
        return small_gain + gained * more_gain + small_loss + lost * more_loss


def weight(probability: Array, gamma: float) -> Array:
    """w of each ``probability``: small ones count too much and large ones too little where ``gamma`` is below 1."""
    power, rest = probability**gamma, (1 - probability) ** gamma
    return power / (power + rest) ** (1 / gamma)
