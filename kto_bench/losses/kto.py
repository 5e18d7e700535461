"""Kahneman-Tversky optimisation: a prospect-theoretic value of single completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output, ReferencePoint


class KTO(Loss):
    r"""KTO.

    .. math::
        r(x, y) = \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}, \qquad
        v(x, y) = \begin{cases}
            \lambda_D\, \sigma(\beta (r(x, y) - z_0)) & y \text{ desirable} \\
            \lambda_U\, \sigma(\beta (z_0 - r(x, y))) & y \text{ undesirable}
        \end{cases}, \qquad
        L = \lambda_y - v(x, y)

    Source: Ethayarajh et al. (2024), arXiv 2402.01306 (version 2 and later), Eq. 8. Log-ratios are sums over tokens,
    not divided by the length. The reference point z_0 estimates KL(pi_theta || pi_ref) from mismatched pairs (section
    4.1); see ``reference_point``. The mean is over all examples, those of a class with weight 0 included.

    Statistics: for each class, ``rewards/*``, the implied reward ``beta * log(pi_theta / pi_ref)`` (z_0 is not
    subtracted), and ``log_probs/*``, the policy's log-probability in nats, summed over tokens.
    """

    feedback: ClassVar[FeedbackKind] = "binary"
    needs_reference: ClassVar[bool] = True
    needs_kl: ClassVar[bool] = True

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="Risk aversion: a larger value saturates the value of gains and losses sooner.",
    )
    desirable_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="lambda_D; 0 leaves desirable completions out of the loss."
    )
    undesirable_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="lambda_U; 0 leaves undesirable completions out of the loss."
    )

    @model_validator(mode="after")
    def _some_weight(self) -> KTO:
        if self.desirable_weight == 0 and self.undesirable_weight == 0:
            raise ValueError(
                "desirable_weight and undesirable_weight are both 0, so nothing is learned: raise one above 0"
            )
        return self

    def __call__(self, completions: Completions, desirable: Tensor, reference_point: Tensor) -> Output:
        """Losses of n completions; ``desirable`` is (n,) bool, ``reference_point`` the scalar z_0 in nats."""
        log_ratio = completions.log_ratio
        scaled = self.beta * (log_ratio - reference_point)
        # lambda - lambda * sigma(a) = lambda * sigma(-a), which does not cancel where sigma(a) is close to 1.
        losses = torch.where(
            desirable,
            self.desirable_weight * torch.sigmoid(-scaled),
            self.undesirable_weight * torch.sigmoid(scaled),
        )
        rewards = self.beta * log_ratio.detach()
        log_probs = completions.policy_log_prob.detach()
        return Output(
            losses=losses,
            statistics={
                "rewards/desirable": (rewards, desirable),
                "rewards/undesirable": (rewards, ~desirable),
                "log_probs/desirable": (log_probs, desirable),
                "log_probs/undesirable": (log_probs, ~desirable),
            },
        )

    def reference_point(self, mismatched: Completions | None, past: Mapping[str, float]) -> ReferencePoint:
        r"""The estimate of z_0 from the m mismatched pairs (x_i, y_j), j != i, of a whole global batch.

        .. math:: \hat z_0 = \max\Big(0, \frac{1}{m} \sum_i \log\frac{\pi_\theta(y_j|x_i)}{\pi_{ref}(y_j|x_i)}\Big)

        Source: section 4.1 of the paper. No gradient flows through it: it only sets where the loss saturates. Logged in
        nats as ``kl``, the estimate, and ``kl_raw``, the mean before clamping, which may be negative.

        Raises ValueError when there are no mismatched pairs.
        """
        assert mismatched is not None, "needs_kl"
        log_ratio = mismatched.log_ratio.detach()
        if log_ratio.numel() == 0:
            raise ValueError(
                "KTO's reference point needs mismatched pairs, got none: use at least 2 completions per step"
            )
        raw = log_ratio.mean()
        value = raw.clamp(min=0)
        return ReferencePoint(value=value, statistics={"kl": value, "kl_raw": raw})
