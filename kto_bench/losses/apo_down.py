"""Anchored preference optimisation for completions worse than the policy's own."""

from __future__ import annotations

import torch
from torch import Tensor

from kto_bench.losses.reward_pairs import RewardPairs


class APODown(RewardPairs):
    r"""APO-down: lowers the chosen completion, measured from the reference, and the rejected one more.

    .. math::
        L = \sigma(r_w) + 1 - \sigma(r_w - r_l), \qquad r = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Source: D'Oosterlinck et al. (2024), arXiv 2408.06266, Eq. 8. Log-ratios are sums over tokens, not divided by the
    length. The paper leaves out the constant 1; with it, as in TRL, the loss is in (0, 2), and 1 where policy and
    reference agree. For pairs whose chosen completion is worse than what the policy writes; ``APOZero`` is for the
    others.

    Where policy and reference agree, the two pulls on the chosen completion cancel: its gradient is zero, and training
    starts with the rejected one alone. The chosen one is lowered where its reward is closer to 0 than the margin is.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``.
    """

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        # 1 - sigma(a) = sigma(-a), which does not cancel where sigma(a) is close to 1.
        return torch.sigmoid(chosen_rewards) + torch.sigmoid(rejected_rewards - chosen_rewards)
