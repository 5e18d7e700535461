"""Supervised fine-tuning: the likelihood of demonstrations."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output


class SFT(Loss):
    r"""Negative log-likelihood of the completion, per token of the global batch.

    .. math:: L = -\frac{\sum_i \log \pi_\theta(y_i | x_i)}{\sum_i |y_i|}

    Source: maximum likelihood, i.e. token-level cross-entropy on the completion; the prompt is not trained on.

    An example's loss is the sum over its tokens and its weight is its number of tokens, so every token of a global
    batch counts the same however the batch is split. The loss is in nats per token; exp(loss) is the perplexity.

    Statistics: ``log_probs/demonstrations``, log pi_theta(y|x) in nats, summed over tokens.
    """

    feedback: ClassVar[FeedbackKind] = "demonstrations"

    def weights(self, lengths: Tensor) -> Tensor:
        """(n,) number of tokens of each completion."""
        return lengths.to(torch.float32)

    def __call__(self, completions: Completions) -> Output:
        """Losses of n demonstrations."""
        log_probs = completions.policy_log_prob
        every = torch.ones_like(log_probs, dtype=torch.bool)
        return Output(
            losses=-log_probs,
            statistics={"log_probs/demonstrations": (log_probs.detach(), every)},
        )
