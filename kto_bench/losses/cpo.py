"""Contrastive preference optimisation: DPO without a reference, and a likelihood term."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class CPO(Loss):
    r"""CPO.

    .. math::
        L = -\log \sigma\big(\beta \log \pi_\theta(y_w|x) - \beta \log \pi_\theta(y_l|x)\big)
            - \frac{w}{|y_w|} \log \pi_\theta(y_w|x)

    Source: Xu et al. (2024), arXiv 2401.08417, Eq. 3 for the preference term, whose log-probabilities are sums over
    tokens, not divided by the length. The likelihood term departs from the paper, which prints the sum,
    -log pi_theta(y_w|x): the authors' released training code, like TRL's, takes the mean over all tokens of the chosen
    completions of a micro-batch, and its settings (beta 0.1, weight 1) only make sense so. With a sum every chosen
    token would be pulled up with force 1, and the preference term could add at most beta. Here it is the mean over the
    tokens of each completion, which does not depend on the batch and equals theirs where all chosen completions are of
    the same length.

    An empty chosen completion has no likelihood term.

    Statistics: the paired ones, with the reward ``beta * log pi_theta(y|x)``.
    """

    feedback: ClassVar[FeedbackKind] = "paired"

    beta: float = Field(0.1, gt=0, allow_inf_nan=False, description="Scale of the reward, a summed log-probability.")
    nll_weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="w, the weight of the chosen completion's negative log-likelihood per token.",
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self.beta * chosen.policy_log_prob
        rejected_rewards = self.beta * rejected.policy_log_prob
        return Output(
            losses=-F.logsigmoid(chosen_rewards - rejected_rewards) - self.nll_weight * chosen.mean_log_prob,
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
