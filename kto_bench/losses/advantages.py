"""Generalised advantage estimation for completions that are rewarded at their last token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def discounted_sums(values: Tensor, discount: float) -> Tensor:
    r""":math:`S_t = \sum_{k \ge t} \text{discount}^{k - t} \, \text{values}_k` along the last axis of (n, t) values.

    By doubling: log2(t) additions of whole tensors, none of a power that overflows, for any discount from 0 to 1.
    """
    sums, width = values, 1
    while width < values.shape[-1]:
        sums = sums + discount**width * F.pad(sums[..., width:], (0, width))
        width *= 2
    return sums


def advantages_and_returns(
    values: Tensor, rewards: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    r"""Advantages and returns of each token, both (n, t), 0 off the mask and without gradient.

    .. math::
        \hat A_t = \sum_{k \ge t} (\gamma \lambda)^{k - t} (R_k + \gamma V_{k + 1} - V_k), \qquad
        G_t = \sum_{k \ge t} \gamma^{k - t} R_k

    ``values``: (n, t) V, what is expected at the state before each token, 0 after the last one. ``rewards``: (n,), R of
    the last token; every other token's is 0. ``mask``: (n, t) bool, true on the consecutive tokens of a completion.

    Source: Schulman et al. (2016), arXiv 1506.02438, Eq. 16.
    """
    values = values.detach().where(mask, 0.0)
    last = mask & ~F.pad(mask[..., 1:], (0, 1))
    received = rewards.detach()[..., None].where(last, 0.0)
    surprises = (received + discount * F.pad(values[..., 1:], (0, 1)) - values).where(mask, 0.0)
    advantages = discounted_sums(surprises, discount * gae_lambda).where(mask, 0.0)
    return advantages, discounted_sums(received, discount).where(mask, 0.0)
