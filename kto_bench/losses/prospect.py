"""What KTO and its relatives share: a value of gains and losses against a reference point, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.class_weights import RatioAdvice, ratio_warnings
from kto_bench.losses.falling_rewards import falling_rewards_warnings

SATURATED = 0.05
"""An example counts as saturated where the slope of the value is below this share of its largest slope."""


class Prospect(Loss):
    r"""A loss that values every completion by itself, as prospect theory has people do.

    .. math::
        L = \lambda_y \, (c - v(g)), \qquad
        g = \begin{cases} \beta (r - z_0) & y \text{ desirable} \\ \beta (z_0 - r) & y \text{ undesirable} \end{cases}

    with r the log-ratio of policy and reference in nats, summed over tokens, and z_0 the reference point in nats (0 for
    a loss that has none). A subclass states its value function v by ``shortfall``, c - v(g) with a constant c of its
    choice, and ``relative_slope``. The mean is over all examples. A class with weight 0 has exactly zero loss and
    gradient, even where its log-ratio is infinite.

    Statistics, for each class:

    * ``rewards/*``: the implied reward ``beta * r``; z_0 is not subtracted.
    * ``log_probs/*``: the policy's log-probability in nats, summed over tokens.
    * ``saturated/*``: 1 for an example where the slope of v is below 5% of its largest value, else 0: such an example
      hardly moves the policy any more. The mean is the share of saturated examples.
    * ``effective_weight/*``: lambda_y times that relative slope: what is left of the class's weight after saturation.
    """

    feedback: ClassVar[FeedbackKind] = "binary"
    needs_reference: ClassVar[bool] = True
    advised_ratio: ClassVar[RatioAdvice | None] = RatioAdvice(1.0, 1.5, "versions 4 and 5 of the KTO paper, Eq. 9")
    """The range of lambda_D n_D / (lambda_U n_U) outside of which ``data_warnings`` speaks up; None for no advice.

    Source: Ethayarajh et al. (2024), arXiv 2402.01306, versions 4 and 5, Eq. 9. Version 1 said 1 to 4/3 (its Eq. 8).
    """

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Risk aversion: a larger value saturates the value of gains and losses sooner.",
    )
    desirable_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="lambda_D; 0 leaves desirable completions out of the loss."
    )
    undesirable_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="lambda_U; 0 leaves undesirable completions out of the loss."
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.desirable_weight == 0 and self.undesirable_weight == 0:
            raise ValueError(
                "desirable_weight and undesirable_weight are both 0, so nothing is learned: raise one above 0"
            )
        return self

    def shortfall(self, gain: Tensor) -> Tensor:
        """(n,) c - v(g) from the (n,) gains g: what an outcome falls short of the constant c by."""
        raise TypeError(f"{type(self).__name__} does not define its value function")

    def relative_slope(self, gain: Tensor) -> Tensor:
        """(n,) the slope of v at the (n,) gains over the supremum of its slope, from 0 to 1."""
        raise TypeError(f"{type(self).__name__} does not define its value function")

    def log_ratio(self, completions: Completions) -> Tensor:
        """(n,) r, in nats."""
        return completions.log_ratio

    def __call__(self, completions: Completions, desirable: Tensor, reference_point: Tensor | None) -> Output:
        """Losses of n completions; ``desirable`` is (n,) bool, ``reference_point`` the scalar z_0 in nats or None."""
        log_ratio = self.log_ratio(completions)
        scaled = self.beta * (log_ratio if reference_point is None else log_ratio - reference_point)
        gain = torch.where(desirable, scaled, -scaled)
        # Where the weight is 0 the gain is replaced, since 0 times the value of an infinite one would be NaN.
        counted = torch.where(desirable, self.desirable_weight > 0, self.undesirable_weight > 0)
        losses = self._weighted(self.shortfall(torch.where(counted, gain, 0.0)), desirable)
        slope = self.relative_slope(gain.detach())
        values = {
            "rewards": self.beta * log_ratio.detach(),
            "log_probs": completions.policy_log_prob.detach(),
            "saturated": (slope < SATURATED).to(slope.dtype),
            "effective_weight": self._weighted(slope, desirable),
        }
        classes = {"desirable": desirable, "undesirable": ~desirable}
        return Output(
            losses=losses,
            statistics={
                f"{name}/{label}": (value, applies)
                for name, value in values.items()
                for label, applies in classes.items()
            },
        )

    def _weighted(self, values: Tensor, desirable: Tensor) -> Tensor:
        return torch.where(desirable, self.desirable_weight * values, self.undesirable_weight * values)

    def data_warnings(self, desirable: int, undesirable: int) -> list[str]:
        """One sentence when the classes' weights, times their numbers of completions, are out of the advised ratio."""
        weights = (self.desirable_weight, self.undesirable_weight)
        if self.advised_ratio is None:
            return []
        return ratio_warnings(self.advised_ratio, weights, (desirable, undesirable))

    def training_warnings(self, metrics: Sequence[Mapping[str, float]]) -> list[str]:
        """One sentence when the rewards of both classes fell, the authors' sign of too high a learning rate."""
        return falling_rewards_warnings(metrics)
