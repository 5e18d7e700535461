"""What the paired losses log, named alike so that figures can overlay them."""

from __future__ import annotations

import torch
from torch import Tensor

from kto_bench.losses.base import Completions


def paired_statistics(
    chosen: Completions, rejected: Completions, chosen_rewards: Tensor, rejected_rewards: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Statistics of n pairs from their (n,) implied rewards, in the form of ``Output.statistics``, without gradient.

    ``rewards/accuracy`` is the share of pairs with a margin above zero; a tie is no success. ``log_probs/*`` are the
    policy's log-probabilities in nats, summed over tokens.
    """
    margins = chosen_rewards - rejected_rewards
    every = torch.ones_like(margins, dtype=torch.bool)
    values = {
        "rewards/chosen": chosen_rewards,
        "rewards/rejected": rejected_rewards,
        "rewards/margin": margins,
        "rewards/accuracy": (margins > 0).to(margins.dtype),
        "log_probs/chosen": chosen.policy_log_prob,
        "log_probs/rejected": rejected.policy_log_prob,
    }
    return {name: (value.detach(), every) for name, value in values.items()}
