"""KTO with the identity for a value function: neither risk-averse nor risk-seeking."""

from __future__ import annotations

import torch
from torch import Tensor

from kto_bench.losses.kto import KTO


class KTORiskNeutral(KTO):
    r"""KTO with v(g) = g.

    .. math::
        L = \begin{cases}
            -\lambda_D\, \beta (r(x, y) - z_0) & y \text{ desirable} \\
            -\lambda_U\, \beta (z_0 - r(x, y)) & y \text{ undesirable}
        \end{cases}

    Source: the risk-neutral ablation of Ethayarajh et al. (2024), arXiv 2402.01306 version 4. r and z_0 are KTO's.

    The slope is 1 everywhere, so no example saturates, the gradient does not depend on z_0, and the loss is bounded
    neither above nor below: the longer the training, the further from the reference the policy is driven.
    """

    def shortfall(self, gain: Tensor) -> Tensor:
        """(n,) -g."""
        return -gain

    def relative_slope(self, gain: Tensor) -> Tensor:
        """(n,) ones."""
        return torch.ones_like(gain)
