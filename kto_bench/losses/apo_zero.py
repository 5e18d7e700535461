"""Anchored preference optimisation for completions better than the policy's own."""

from __future__ import annotations

import torch
from torch import Tensor

from kto_bench.losses.reward_pairs import RewardPairs


class APOZero(RewardPairs):
    r"""APO-zero: raises the chosen completion and lowers the rejected one, both measured from the reference.

    .. math::
        L = 1 - \sigma(r_w) + \sigma(r_l), \qquad r = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Source: D'Oosterlinck et al. (2024), arXiv 2408.06266, Eq. 7. Log-ratios are sums over tokens, not divided by the
    length. The paper leaves out the constant 1; with it, as in TRL, the loss is in (0, 2), and 1 where policy and
    reference agree. For pairs whose chosen completion is better than what the policy writes; ``APODown`` is for the
    others.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``.
    """

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        # 1 - sigma(r) = sigma(-r), which does not cancel where sigma(r) is close to 1.
        return torch.sigmoid(-chosen_rewards) + torch.sigmoid(rejected_rewards)
