"""What the losses of two implied rewards have in common: DPO and its relatives with a reference."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class RewardPairs(Loss):
    r"""Base of the losses of r_w and r_l alone, the implied rewards of the chosen and the rejected completion.

    .. math:: r = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Log-ratios are sums over tokens, not divided by the length. A subclass implements ``of_rewards``.
    Statistics: the paired ones, with the implied reward r.
    """

    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Strength of the implied KL constraint: a larger value keeps the policy closer to the reference.",
    )

    def of_rewards(self, chosen_rewards: Tensor, rejected_rewards: Tensor) -> Tensor:
        """(n,) losses of the (n,) implied rewards of n pairs."""
        raise TypeError(f"{type(self).__name__} does not define of_rewards")

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.log_ratio
        rejected_rewards = self.beta * rejected.log_ratio
        return Output(
            losses=self.of_rewards(chosen_rewards, rejected_rewards),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
