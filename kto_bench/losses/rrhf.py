"""Rank responses to align with human feedback: a ranking of mean log-probabilities, and a likelihood term."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class RRHF(Loss):
    r"""RRHF for two ranked completions.

    .. math::
        L = \max(0,\, p_l - p_w) - w \log \pi_\theta(y_w|x), \qquad p = \frac{1}{|y|} \log \pi_\theta(y|x)

    Source: Yuan et al. (2023), arXiv 2304.05302: the ranking term over all ordered pairs, of which two completions have
    one, and the cross-entropy of the best completion, a sum over its tokens; they are added with weight 1. Here w
    (``nll_weight``) stands on the likelihood. The authors' code differs: it weighs the ranking term, by 1 in its
    published command (100 unless told otherwise), and its likelihood term is a mean over the padded width of the batch,
    prompt and padding included. With the paper's sum each token of a chosen completion of T tokens is pulled up with
    force 1 by the likelihood, and 1 / T by the ranking, which hardly shows beside it: lower ``nll_weight`` to about
    1 / T to balance them.

    An empty completion has the reward 0. At a tie the ranking term has no gradient.

    Statistics: the paired ones, with the reward ``log pi_theta(y|x) / |y|``, which the ranking compares.
    """

    feedback: ClassVar[FeedbackKind] = "paired"

    nll_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the chosen completion's negative log-likelihood."
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = chosen.mean_log_prob
        rejected_rewards = rejected.mean_log_prob
        ranking = F.relu(rejected_rewards - chosen_rewards)
        return Output(
            losses=ranking - self.nll_weight * chosen.policy_log_prob,
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
