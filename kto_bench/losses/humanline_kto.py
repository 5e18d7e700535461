"""Humanline KTO: the log-ratio of each token is clamped, and the reference follows the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field
from torch import Tensor

from kto_bench.losses.base import Completions, Output, ReferencePoint
from kto_bench.losses.humanline import Humanline
from kto_bench.losses.kto import KTO


class HumanlineKTO(Humanline, KTO):
    r"""KTO on clamped log-ratios of tokens, with a synced reference.

    .. math::
        L = \begin{cases}
            \lambda_D\, (1 - \sigma(\beta (c(y) - z_0))) & y \text{ desirable} \\
            \lambda_U\, (1 - \sigma(\beta (z_0 - c(y)))) & y \text{ undesirable}
        \end{cases}, \qquad
        c(y) = \sum_t \mathrm{clip}\Big(\log\frac{\pi_\theta(y_t|x, y_{<t})}{\pi_{ref}(y_t|x, y_{<t})},\
            \log\epsilon_P,\ \log\epsilon_R\Big)

    Source: Ethayarajh, Liu and Muennighoff (2025), arXiv 2509.24207; see ``Humanline`` for the limits and the sync. z_0
    is KTO's estimate from mismatched pairs, whose tokens are clamped as well, since the authors' code computes both
    rewards alike. The default desirable_weight is that of their scripts.

    Statistics: KTO's, with rewards ``beta * c(y)`` relative to the reference of the last sync, and for each class
    ``clamped/*``, the share of a completion's tokens that are clamped.
    """

    desirable_weight: float = Field(
        1.1, ge=0, allow_inf_nan=False, description="lambda_D; 0 leaves desirable completions out of the loss."
    )

    def __call__(self, completions: Completions, desirable: Tensor, reference_point: Tensor | None) -> Output:
        """Losses of n completions; ``desirable`` is (n,) bool, ``reference_point`` the scalar z_0 in nats."""
        output = super().__call__(self.clamped(completions), desirable, reference_point)
        statistics = dict(output.statistics)
        log_probs, share = completions.policy_log_prob.detach(), self.clamped_share(completions)
        for label, applies in (("desirable", desirable), ("undesirable", ~desirable)):
            statistics[f"log_probs/{label}"] = (log_probs, applies)
            statistics[f"clamped/{label}"] = (share, applies)
        return replace(output, statistics=statistics)

    def reference_point(self, mismatched: Completions | None, past: Mapping[str, float]) -> ReferencePoint:
        """KTO's estimate of z_0, from mismatched pairs whose tokens are clamped too."""
        return super().reference_point(None if mismatched is None else self.clamped(mismatched), past)
