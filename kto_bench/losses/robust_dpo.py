"""Robust direct preference optimisation: DPO corrected for flipped labels."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kto_bench.losses.reward_pairs import RewardPairs


class RobustDPO(RewardPairs):
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

    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, allow_inf_nan=False, description="epsilon, the share of flipped labels; 0 is DPO."
    )

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        margins = chosen_rewards - rejected_rewards
        as_labelled, flipped = -F.logsigmoid(margins), -F.logsigmoid(-margins)
        corrected = (1 - self.label_smoothing) * as_labelled - self.label_smoothing * flipped
        return corrected / (1 - 2 * self.label_smoothing)
