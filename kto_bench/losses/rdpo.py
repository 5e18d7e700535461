"""Length-regularised direct preference optimisation."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class RDPO(Loss):
    r"""R-DPO: DPO for a reward from which a penalty on the length is taken.

    .. math::
        L = -\log \sigma\Big(\beta \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)}
                           - \beta \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}
                           + \alpha |y_w| - \alpha |y_l|\Big)

    Source: Park, Rafailov, Ermon and Finn (2024), arXiv 2403.19159; alpha is ``length_penalty`` and lengths are
    in tokens. Log-ratios are sums over tokens, not divided by the length.

    The sign: the policy that maximises r(x, y) - alpha ``|y|`` under the KL constraint has
    beta log(pi / pi_ref) = r - alpha ``|y|`` - beta log Z(x), so the reward by which people compared completions is
    r = beta log(pi / pi_ref) + alpha ``|y|`` + beta log Z(x). What length explains of a preference, the policy need
    not: a longer chosen completion asks for less of a margin, and gets a smaller gradient. Some re-implementations
    subtract the term, which rewards length instead.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref)``, as in DPO: the reward with
    the penalty taken off.
    """

    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Strength of the implied KL constraint: a larger value keeps the policy closer to the reference.",
    )
    length_penalty: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="alpha, what a token costs in units of the reward; 0 is DPO."
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.log_ratio
        rejected_rewards = self.beta * rejected.log_ratio
        explained = self.length_penalty * (chosen.lengths - rejected.lengths)
        return Output(
            losses=-F.logsigmoid(chosen_rewards - rejected_rewards + explained),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
