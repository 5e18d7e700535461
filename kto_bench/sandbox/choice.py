"""From values to what an annotator does: the probability of a choice, a thumb or a rating.

    P(first preferred) = F((v_1 - v_2) / tau)     P(thumb up) = F(v / tau)     P(rating > k) = F((v - t_k) / tau)

F is logistic (Luce's choice axiom 1959, McFadden 1974: the Bradley-Terry model on v; for ratings the proportional odds
of McCullagh 1980) or that of the normal distribution (Thurstone 1927, case V). t_1 < t_2 < ... are the thresholds
between the levels of a rating.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import ndtr

from kto_bench.sandbox.value import Array

ChoiceRule = Literal["logistic", "probit"]


def probability(strength: Array, rule: ChoiceRule) -> Array:
    """F of each ``strength`` (a value, or a difference of values, in units of the temperature)."""
    return (1 + np.tanh(strength / 2)) / 2 if rule == "logistic" else ndtr(strength)


def with_density(strength: Array, rule: ChoiceRule) -> tuple[Array, Array]:
    """F and its derivative F' at each ``strength``."""
    chance = probability(strength, rule)
    if rule == "logistic":
        return chance, chance * (1 - chance)
    return chance, np.exp(-(strength**2) / 2) / (2 * np.pi) ** 0.5
