"""Kahneman-Tversky optimisation: a prospect-theoretic value of single completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from kto_bench.losses.base import Completions, ReferencePoint
from kto_bench.losses.prospect import Prospect


class KTO(Prospect):
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

    The slope of the value is largest at the reference point, 1/4, and below 5% of that where the gain is more than 4.36
    from it, i.e. at beta = 0.1 where log pi_theta / pi_ref is more than 43.6 nats from z_0. Statistics: ``Prospect``.
    """

    needs_kl: ClassVar[bool] = True

    def shortfall(self, gain: Tensor) -> Tensor:
        """(n,) 1 - sigma(g)."""
        # 1 - sigma(g) = sigma(-g), which does not cancel where sigma(g) is close to 1.
        return torch.sigmoid(-gain)

    def relative_slope(self, gain: Tensor) -> Tensor:
        """(n,) 4 sigma(g) sigma(-g)."""
        return 4 * torch.sigmoid(gain) * torch.sigmoid(-gain)

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
