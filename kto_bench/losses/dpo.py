"""Direct preference optimisation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kto_bench.losses.reward_pairs import RewardPairs


class DPO(RewardPairs):
    r"""DPO with the sigmoid (Bradley-Terry) link.

    .. math::
        L = -\log \sigma\Big(\beta \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)}
                           - \beta \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}\Big)

    Source: Rafailov et al. (2023), arXiv 2305.18290, Eq. 7. Log-ratios are sums over tokens, not divided by the length.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``.
    """

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        return -F.logsigmoid(chosen_rewards - rejected_rewards)
