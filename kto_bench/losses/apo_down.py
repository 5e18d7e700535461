"""Anchored preference optimisation for completions worse than the policy's own."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class APODown(Loss):
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
            # 1 - sigma(a) = sigma(-a), which does not cancel where sigma(a) is close to 1.
            losses=torch.sigmoid(chosen_rewards) + torch.sigmoid(rejected_rewards - chosen_rewards),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
