"""A value head: what it expects of the rest of a completion, read off the policy's hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """Three linear layers with ReLU, as wide as the hidden states, ending in one number.

    The shape is that of the KTO paper's offline PPO (Ethayarajh et al. 2024, arXiv 2402.01306). It is 0 everywhere
    before the first step, so nothing random enters the first advantages.
    """

    def __init__(self, width: int, seed: int) -> None:
        """``width``: of hidden states; ``seed``: of the first two layers. The caller's random state stays as it is."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
            )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor) -> Tensor:
        """(m,) values of (m, width) hidden states, to which no gradient flows: the head learns beside the policy."""
        # Frozen weights beneath adapters may be in half precision, which the head's are not.
        hidden = hidden.detach().to(next(self.parameters()).dtype)
        values: Tensor = self.layers(hidden).squeeze(-1)
        return values.float()
