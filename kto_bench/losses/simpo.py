"""Simple preference optimisation: a length-normalised reward without a reference."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class SimPO(Loss):
    r"""SimPO.

    .. math::
        L = -\log \sigma\Big(\frac{\beta}{|y_w|} \log \pi_\theta(y_w|x)
                           - \frac{\beta}{|y_l|} \log \pi_\theta(y_l|x) - \gamma\Big),
        \qquad \gamma = \beta \cdot \texttt{gamma\_over\_beta}

    Source: Meng, Xia and Chen (2024), arXiv 2405.14734, Eq. 6. The margin is given as the ratio gamma / beta, as in the
    authors' configurations: it is then in nats per token and keeps its meaning when beta is tuned. Nothing else
    is in the loss; in particular no likelihood term on the chosen completion.

    An empty completion has the reward 0.

    Statistics: the paired ones, with the reward ``beta / |y| * log pi_theta(y|x)``.
    """

    feedback: ClassVar[FeedbackKind] = "paired"

    beta: float = Field(2.0, gt=0, allow_inf_nan=False, description="Scale of the length-normalised reward.")
    gamma_over_beta: float = Field(
        0.5,
        ge=0,
        allow_inf_nan=False,
        description="Target margin between the average log-probabilities of chosen and rejected, in nats per token.",
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.mean_log_prob
        rejected_rewards = self.beta * rejected.mean_log_prob
        gamma = self.beta * self.gamma_over_beta
        return Output(
            losses=-F.logsigmoid(chosen_rewards - rejected_rewards - gamma),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
