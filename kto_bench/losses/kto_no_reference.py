"""KTO without a reference model: the policy's own entropy is what log-probabilities are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kto_bench.losses.base import Completions, ReferencePoint
from kto_bench.losses.class_weights import RatioAdvice
from kto_bench.losses.kto import KTO


class KTONoReference(KTO):
    r"""KTO with a uniform distribution in the place of the reference.

    .. math::
        L = \begin{cases}
            \lambda_D\, (1 - \sigma(\beta (\log \pi_\theta(y|x) + H))) & y \text{ desirable} \\
            \lambda_U\, (1 - \sigma(-\beta (\log \pi_\theta(y|x) + H))) & y \text{ undesirable}
        \end{cases}

    Source: Ethayarajh et al. (2024), arXiv 2402.01306 version 4, the variant without a reference. With
    pi_ref(y|x) = 1/N for each of N completions, r = log pi_theta(y|x) + log N and
    z_0 = KL(pi_theta || pi_ref) = log N - H, with the entropy H = -E[log pi_theta(y'|x)]; so N cancels in
    r - z_0 = log pi_theta(y|x) + H. H is estimated as z_0 is in KTO, see ``reference_point``.

    Log-probabilities are sums over tokens, as in the equation. The authors' code (``kto-surprisal``) instead takes
    means over tokens, both of the completion and of the mismatched pairs. With sums, the length of a completion decides
    much of whether it counts as a gain, and many examples may be saturated from the start: see the statistics, in which
    ``rewards/*`` is ``beta * log pi_theta(y|x)``, without log N.

    The default desirable_weight is that of the paper's result; it found 1.5 and 2 to be several points worse.
    """

    needs_reference: ClassVar[bool] = False
    advised_ratio: ClassVar[RatioAdvice | None] = RatioAdvice(
        1.0, 1.75, "versions 4 and 5 of the KTO paper, Eq. 9, widened to the 1.75 of its result without a reference"
    )

    desirable_weight: float = Field(
        1.75, ge=0, allow_inf_nan=False, description="lambda_D; 0 leaves desirable completions out of the loss."
    )

    def log_ratio(self, completions: Completions) -> Tensor:
        """(n,) log pi_theta(y|x), in nats: the log-ratio to the uniform distribution less the constant log N."""
        return completions.policy_log_prob

    def reference_point(self, mismatched: Completions | None, past: Mapping[str, float]) -> ReferencePoint:
        r"""The estimate of -H from the m mismatched pairs (x_i, y_j), j != i, of a whole global batch.

        .. math:: -\hat H = \frac{1}{m} \sum_i \log \pi_\theta(y_j|x_i)

        It is not clamped: that log N - H is at least 0 bounds H by the unknown log N, not by 0. Since y_j was not
        written for x_i it is less probable than what the policy would say, so H is estimated too high, which makes
        gains of more completions than it should. No gradient flows through it. Logged in nats as ``entropy``.

        Raises ValueError when there are no mismatched pairs.
        """
        assert mismatched is not None, "needs_kl"
        log_probs = mismatched.policy_log_prob.detach()
        if log_probs.numel() == 0:
            raise ValueError(
                "the estimate of the policy's entropy needs mismatched pairs, got none: "
                "use at least 2 completions per step"
            )
        value = log_probs.mean()
        return ReferencePoint(value=value, statistics={"entropy": -value})
