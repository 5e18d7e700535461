"""Anchored preference optimisation for completions better than the policy's own."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class APOZero(Loss):
    r"""APO-zero: raises the chosen completion and lowers the rejected one, both measured from the reference.

    .. math::
        L = 1 - \sigma(r_w) + \sigma(r_l), \qquad r = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Source: D'Oosterlinck et al. (2024), arXiv 2408.06266, Eq. 7. Log-ratios are sums over tokens, not divided by the
    length. The paper leaves out the constant 1; with it, as in TRL, the loss is in (0, 2), and 1 where policy and
    reference agree. For pairs whose chosen completion is better than what the policy writes; ``APODown`` is for the
    others.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``.
    """

    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Scale of the log-ratios: a larger value saturates sooner, closer to the reference.",
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.log_ratio
        rejected_rewards = self.beta * rejected.log_ratio
        return Output(
            # 1 - sigma(r) = sigma(-r), which does not cancel where sigma(r) is close to 1.
            losses=torch.sigmoid(-chosen_rewards) + torch.sigmoid(rejected_rewards),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
