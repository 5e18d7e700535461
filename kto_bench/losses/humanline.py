"""Humanline alignment: a token counts no more than people would perceive, against a reference that follows."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kto_bench.losses.base import Completions, Loss


class Humanline(Loss):
    r"""What makes a loss of log-ratios humanline: the log-ratio of each token is clamped, and the reference follows.

    .. math::
        \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)} \to \sum_t \mathrm{clip}\Big(
            \log\frac{\pi_\theta(y_t|x, y_{<t})}{\pi_{ref}(y_t|x, y_{<t})},\ \log\epsilon_P,\ \log\epsilon_R\Big)

    Source: Ethayarajh, Liu and Muennighoff (2025), arXiv 2509.24207: clipping is the limit of sampling tokens as people
    perceive their probability. A clamped token gets no gradient. Every ``sync_steps`` steps, before the optimiser's
    update, the reference becomes the policy as it is then.

    The limits are those of the authors' code; notes on the paper quote -1.5 and 1.5 as good across tasks. The code's
    sync_steps is 1, which the authors found to collapse on mathematics, where 12 to 24 were good; 4 cost nothing in
    instruction following, hence the default here.
    """

    log_epsilon_low: float = Field(
        -1.0, le=0, allow_inf_nan=False, description="log epsilon_P: smallest log-ratio of a token, in nats."
    )
    log_epsilon_high: float = Field(
        1.5, ge=0, allow_inf_nan=False, description="log epsilon_R: largest log-ratio of a token, in nats."
    )
    sync_steps: int = Field(4, ge=1, description="Every how many steps the reference becomes the policy.")

    @property
    def sync_every(self) -> int:
        """``sync_steps``."""
        return self.sync_steps

    def clamped(self, completions: Completions) -> Completions:
        """Completions whose log-ratios are the clamped ones.

        Their ``policy`` is the log-ratio and their ``reference`` 0, so that no digits are lost: only ``log_ratio`` has
        a meaning.
        """
        log_ratio = self._token_log_ratio(completions).clamp(self.log_epsilon_low, self.log_epsilon_high)
        return Completions(log_ratio, completions.mask, torch.zeros_like(log_ratio))

    def clamped_share(self, completions: Completions) -> Tensor:
        """(n,) share of a completion's tokens whose log-ratio is out of the limits; 0 for an empty one."""
        log_ratio = self._token_log_ratio(completions).detach()
        outside = (log_ratio < self.log_epsilon_low) | (log_ratio > self.log_epsilon_high)
        return outside.sum(-1).to(log_ratio.dtype) / completions.lengths.clamp(min=1)

    def _token_log_ratio(self, completions: Completions) -> Tensor:
        """(n, t) log-ratio of each token, 0 off the mask."""
        if completions.reference is None:
            raise ValueError("humanline losses need the reference's log-probabilities, got none")
        return torch.where(completions.mask, completions.policy - completions.reference, 0.0)
