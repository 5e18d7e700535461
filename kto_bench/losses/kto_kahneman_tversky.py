"""KTO with the value function that Kahneman and Tversky measured on people."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from kto_bench.losses.kto import KTO

_ROUNDING = 1e-5
"""In units of the gain: more than rounding in fp32 makes of policy and reference that agree."""


class KTOKahnemanTversky(KTO):
    r"""KTO with the power function of prospect theory.

    .. math::
        L = -\lambda_y\, v(g), \qquad
        v(g) = \begin{cases} w(g) & g \ge 0 \\ -\lambda\, w(-g) & g < 0 \end{cases}, \qquad
        w(s) = \begin{cases} s^\alpha & s \ge \epsilon \\ \epsilon^{\alpha - 1} s & s < \epsilon \end{cases}

    with the gain :math:`g = \beta (r - z_0)` of a desirable and :math:`\beta (z_0 - r)` of an undesirable completion;
    r and z_0 are KTO's. lambda is ``loss_aversion``, epsilon ``linear_within``; lambda_y is the class's weight.

    Source: Tversky and Kahneman (1992), Advances in prospect theory, whose median subject has alpha = 0.88 and
    lambda = 2.25; Ethayarajh et al. (2024), arXiv 2402.01306, Eq. 5, start from it and put sigma in its place, because
    the power is hard to optimise.

    The power's slope is infinite at 0, which is where training starts. Within epsilon of 0, v is therefore linear: it
    is continuous at epsilon, where its slope falls from epsilon^(alpha - 1) by the factor alpha, so v stays concave in
    gains and convex in losses, and the kink at 0 keeps the ratio lambda. At 0 the slope is that of gains, and losses
    below 1e-5 count as gains: where policy and reference agree, rounding must not decide between two slopes (v
    steps by 2e-5 there).

    The largest slope is that of small losses, lambda epsilon^(alpha - 1) (where lambda is below 1, of small gains), so
    with the defaults a small gain has the relative slope 1/2.25. The slope falls so slowly, to 5% at a loss of 2 * 10^8
    and a gain of 3 * 10^5, that no example saturates in practice.
    """

    alpha: float = Field(
        0.88,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Curvature: below 1 people are risk-averse in gains and risk-seeking in losses.",
    )
    loss_aversion: float = Field(
        2.25, gt=0, allow_inf_nan=False, description="How many times as steep losses are as gains of the same size."
    )
    linear_within: float = Field(
        0.01,
        ge=1e-4,
        allow_inf_nan=False,
        description="Below this size of a gain or loss the value is linear, so that its slope stays finite.",
    )

    def shortfall(self, gain: Tensor) -> Tensor:
        """(n,) -v(g)."""
        size = gain.abs()
        # The linear part is of the gain itself: the size has no gradient at 0, where training starts.
        inner = self._steepest * gain
        outer = gain.sign() * size.clamp(min=self.linear_within) ** self.alpha
        curve = torch.where(size < self.linear_within, inner, outer)
        return -torch.where(gain > -_ROUNDING, curve, self.loss_aversion * curve)

    def relative_slope(self, gain: Tensor) -> Tensor:
        """(n,) v'(g) over the larger of the slopes beside 0."""
        times = gain.abs() / self.linear_within
        slope = torch.where(times < 1, 1.0, self.alpha * times.clamp(min=1) ** (self.alpha - 1))
        return torch.where(gain > -_ROUNDING, slope, self.loss_aversion * slope) / max(1.0, self.loss_aversion)

    @property
    def _steepest(self) -> float:
        return self.linear_within ** (self.alpha - 1)
