"""Robust direct preference optimisation: DPO corrected for flipped labels."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class RobustDPO(Loss):
    r"""Robust DPO: an unbiased estimate of the DPO loss under labels flipped at a known rate.

    .. math::
        L = \frac{-(1 - \epsilon) \log \sigma(h) + \epsilon \log \sigma(-h)}{1 - 2\epsilon}, \qquad
        h = \beta \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)} - \beta \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}

    Source: Chowdhury, Kini and Natarajan (2024), arXiv 2403.00409, the rDPO loss. Log-ratios are sums over tokens, not
    divided by the length. If a share epsilon of the labels is flipped at random, the expectation of L over the flips is
    the DPO loss of the true label. Single losses can be negative, and there is no least one: a large margin still
    gains in proportion.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``.
    """

    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Strength of the implied KL constraint: a larger value keeps the policy closer to the reference.",
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, allow_inf_nan=False, description="epsilon, the share of flipped labels; 0 is DPO."
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.log_ratio
        rejected_rewards = self.beta * rejected.log_ratio
        margins = chosen_rewards - rejected_rewards
        as_labelled, flipped = -F.logsigmoid(margins), -F.logsigmoid(-margins)
        corrected = (1 - self.label_smoothing) * as_labelled - self.label_smoothing * flipped
        return Output(
            losses=corrected / (1 - 2 * self.label_smoothing),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
