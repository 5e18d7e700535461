"""Conservative direct preference optimisation: DPO on labels that may be wrong."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class ConservativeDPO(Loss):
    r"""cDPO: DPO with smoothed labels.

    .. math::
        L = -(1 - \epsilon) \log \sigma(h) - \epsilon \log \sigma(-h), \qquad
        h = \beta \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)} - \beta \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}

    Source: Mitchell (2023), "A note on DPO with noisy preferences and relationship to IPO": cross-entropy with the
    target 1 - epsilon for the probability that the chosen completion is the better one. Log-ratios are sums over
    tokens, not divided by the length.

    The loss is least at sigma(h) = 1 - epsilon, i.e. h = log((1 - epsilon) / epsilon); a larger margin is lowered
    again. ``RobustDPO`` takes the same share of labels for flipped, but corrects for them instead.

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
        return Output(
            losses=(1 - self.label_smoothing) * as_labelled + self.label_smoothing * flipped,
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
