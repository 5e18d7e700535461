"""Offline PPO-Clip: one policy-gradient step on feedback as it is, without samples from the policy."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from kto_bench.losses.advantages import advantages_and_returns
from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output


class OfflinePPO(Loss):
    r"""The offline, one-step PPO-Clip of the KTO paper. Per token t of a completion, with q_t = pi_theta / pi_ref:

    .. math::
        L_t = -\min\big(q_t \hat A_t,\ \mathrm{clip}(q_t, c_{low}, c_{high})\, \hat A_t\big)
              + k \log\frac{\pi_{ref}(y_t|x, y_{<t})}{\pi_\theta(y_t|x, y_{<t})}
              + \frac{w}{2} (V_t - G_t)^2

    Source: Schulman et al. (2017), arXiv 1707.06347, Eq. 7, as used by Ethayarajh et al. (2024), arXiv 2402.01306. The
    reward is +1 at the last token of a desirable completion, -1 of an undesirable one, 0 at all others. The reference
    takes the place of the policy that sampled, and never changes. k is ``kl_weight``, w ``value_weight``; advantages A
    and returns G: ``advantages_and_returns``. A does not pass a gradient on to V.

    An example's loss is the sum over its tokens and its weight is its number of tokens, so every token of a global
    batch counts the same however the batch is split.

    Where the authors' code differs:

    * It clips the gradients of policy and value head apart. Here they share ``train.max_grad_norm``.
    * The paper gives the clip range 0.25 to 4, taken here; the code's setting is 0.5 to 2.
    * It standardises advantages over the tokens of a batch. Left out: it would tie examples of different micro-batches
      together, and make the loss of an example depend on the others.
    * Its returns for the value head leave out the reward of the token itself, so 0 is the target at the last one.
      Here they include it, as the advantages assume.

    The KL penalty is on the completion's own tokens: its gradient raises them all alike, undesirable ones as well. With
    a negative advantage PPO does not bound q_t from above; the loss then grows without limit in q_t.

    Statistics: ``rewards/*``, the log-ratio of policy and reference in nats, summed over tokens, and ``log_probs/*``,
    for each class; ``clipped``, the share of a completion's tokens whose ratio is out of the range on the side where
    the clipped term is the smaller, so that they have no policy gradient; and ``value_error``, the mean over its tokens
    of (V - G)^2: near 0 for a head that knows the label, and for one that always says 0 the mean square of the returns,
    0.83 with the defaults and 20 tokens, but 0.44 with 100, since they are discounted.
    """

    feedback: ClassVar[FeedbackKind] = "binary"
    needs_reference: ClassVar[bool] = True
    needs_values: ClassVar[bool] = True

    clip_low: float = Field(
        0.25,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Below this ratio to the reference a token with a negative advantage is not lowered any further.",
    )
    clip_high: float = Field(
        4.0,
        ge=1,
        allow_inf_nan=False,
        description="Above this ratio to the reference a token with a positive advantage is not raised any further.",
    )
    discount: float = Field(0.99, ge=0, le=1, allow_inf_nan=False, description="gamma, of the reward per later token.")
    gae_lambda: float = Field(
        0.95,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="lambda of the advantages: 1 trusts the reward alone, 0 the value of the next state.",
    )
    kl_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="Weight of the penalty on being less probable than the reference."
    )
    value_weight: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="Weight of the value head's squared error; 0 leaves it untrained."
    )

    def weights(self, lengths: Tensor) -> Tensor:
        """(n,) number of tokens of each completion."""
        return lengths.to(torch.float32)

    def __call__(self, completions: Completions, desirable: Tensor, reference_point: Tensor | None = None) -> Output:
        """Losses of n completions; ``desirable`` is (n,) bool. Raises ValueError without the values of the tokens."""
        if completions.values is None:
            raise ValueError("offline PPO needs the value head's output for each token, got none")
        mask, reference = completions.mask, completions.reference
        if reference is None:
            raise ValueError("offline PPO needs the reference's log-probabilities, got none")
        log_ratio = torch.where(mask, completions.policy - reference, 0.0)
        values = torch.where(mask, completions.values, 0.0)
        rewards = torch.where(desirable, 1.0, -1.0).to(values.dtype)
        advantages, returns = advantages_and_returns(values, rewards, mask, self.discount, self.gae_lambda)

        # The smaller of the two terms is the advantage times the ratio bounded on one side, by the advantage's sign.
        # Bounded before it is raised, an overflow cannot put infinity times 0 into the gradient.
        low, high = math.log(self.clip_low), math.log(self.clip_high)
        bounded = torch.where(advantages >= 0, log_ratio.clamp(max=high), log_ratio.clamp(min=low))
        policy_losses = -advantages * bounded.exp()
        squared_errors = (values - returns).square()
        losses = policy_losses - self.kl_weight * log_ratio + self.value_weight / 2 * squared_errors

        clipped = torch.where(advantages >= 0, log_ratio > high, log_ratio < low)
        lengths = completions.lengths
        tokens = lengths.clamp(min=1)
        implied = log_ratio.detach().sum(-1)
        log_probs = completions.policy_log_prob.detach()
        return Output(
            losses=torch.where(mask, losses, 0.0).sum(-1),
            statistics={
                "rewards/desirable": (implied, desirable),
                "rewards/undesirable": (implied, ~desirable),
                "log_probs/desirable": (log_probs, desirable),
                "log_probs/undesirable": (log_probs, ~desirable),
                "clipped": ((clipped & mask).sum(-1).to(implied.dtype) / tokens, lengths > 0),
                "value_error": (torch.where(mask, squared_errors.detach(), 0.0).sum(-1) / tokens, lengths > 0),
            },
        )
