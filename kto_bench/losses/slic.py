"""Sequence likelihood calibration: a hinge on the margin in log-probability, and a likelihood term."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class SLiC(Loss):
    r"""SLiC-HF: rank calibration with cross-entropy regularisation.

    .. math::
        L = \max\big(0,\, \delta - \log \pi_\theta(y_w|x) + \log \pi_\theta(y_l|x)\big)
            - \lambda_{reg} \log \pi_\theta(y_{ref}|x), \qquad y_{ref} = y_w

    Source: Zhao et al. (2023), arXiv 2305.10425, the loss of SLiC-HF. Log-probabilities are sums over tokens, not
    divided by the length. The authors regularise towards targets of their SFT data; here, as in the KTO authors' code,
    y_ref is the chosen completion, since paired feedback brings no other target. There is no reference model: what
    keeps the policy in place is the likelihood term, which never saturates.

    At the hinge itself, a margin of exactly delta, the rank term has no gradient.

    Statistics: the paired ones, with the reward ``log pi_theta(y|x)``, which the hinge compares.
    """

    feedback: ClassVar[FeedbackKind] = "paired"

    delta: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="Margin between the log-probabilities of chosen and rejected, in nats, that is enough.",
    )
    regularisation: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="lambda_reg, the weight of the chosen completion's likelihood."
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = chosen.policy_log_prob
        rejected_rewards = rejected.policy_log_prob
        calibration = F.relu(self.delta - (chosen_rewards - rejected_rewards))
        return Output(
            losses=calibration - self.regularisation * chosen_rewards,
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )
