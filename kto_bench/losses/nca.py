"""Noise contrastive alignment: the likelihood of each completion, not only of one relative to the other."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kto_bench.losses.reward_pairs import RewardPairs


class NCA(RewardPairs):
    r"""NCA for preferences between two completions.

    .. math::
        L = -\log \sigma(r_w) - \frac{1}{2} \log \sigma(-r_w) - \frac{1}{2} \log \sigma(-r_l), \qquad
        r = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Source: Chen et al. (2024), arXiv 2402.05369: the NCA objective for K = 2 completions, one of which has all the
    reward. Log-ratios are sums over tokens, not divided by the length.

    The two completions do not enter through their difference. The chosen one's reward is raised up to log 2, where
    sigma(r_w) = 2/3, and lowered above it; the rejected one's is lowered without end.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``.
    """

    beta: float = Field(
        0.01,
        gt=0,
        allow_inf_nan=False,
        description="Strength of the implied KL constraint: a larger value keeps the policy closer to the reference.",
    )

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        noise = F.logsigmoid(-chosen_rewards) + F.logsigmoid(-rejected_rewards)
        return -F.logsigmoid(chosen_rewards) - noise / 2
