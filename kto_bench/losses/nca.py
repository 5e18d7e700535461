"""Noise contrastive alignment: the likelihood of each completion, not only of one relative to the other."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class NCA(Loss):
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

    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(
        0.01,
        gt=0,
        allow_inf_nan=False,
        description="Strength of the implied KL constraint: a larger value keeps the policy closer to the reference.",
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.log_ratio
        rejected_rewards = self.beta * rejected.log_ratio
        noise = F.logsigmoid(-chosen_rewards) + F.logsigmoid(-rejected_rewards)
        return Output(
            losses=-F.logsigmoid(chosen_rewards) - noise / 2,
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
