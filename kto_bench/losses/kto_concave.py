"""KTO with a value function that is concave in losses, too: risk-averse everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_bench.losses.kto import KTO


class KTOConcave(KTO):
    r"""KTO with the value function log sigma, which is DPO's.

    .. math::
        L = \begin{cases}
            -\lambda_D \log \sigma(\beta (r(x, y) - z_0)) & y \text{ desirable} \\
            -\lambda_U \log \sigma(\beta (z_0 - r(x, y))) & y \text{ undesirable}
        \end{cases}

    Source: the concave ablation of Ethayarajh et al. (2024), arXiv 2402.01306 version 4; ``kto-logsigmoid`` in the
    authors' code. r and z_0 are KTO's.

    The slope, sigma(-g), has its supremum 1 in the limit of large losses, which therefore never saturate; gains do,
    below 5% of it, where g is above 2.94. At the reference point the slope is half of the supremum.
    """

    def shortfall(self, gain: Tensor) -> Tensor:
        """(n,) -log sigma(g)."""
        return -F.logsigmoid(gain)

    def relative_slope(self, gain: Tensor) -> Tensor:
        """(n,) sigma(-g)."""
        return torch.sigmoid(-gain)
