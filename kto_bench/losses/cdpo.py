"""Conservative direct preference optimisation: DPO on labels that may be wrong."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kto_bench.losses.reward_pairs import RewardPairs


class ConservativeDPO(RewardPairs):
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

    label_smoothing: float = Field(
        0.1, ge=0, lt=0.5, allow_inf_nan=False, description="epsilon, the share of flipped labels; 0 is DPO."
    )

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        margins = chosen_rewards - rejected_rewards
        as_labelled, flipped = -F.logsigmoid(margins), -F.logsigmoid(-margins)
        return (1 - self.label_smoothing) * as_labelled + self.label_smoothing * flipped
