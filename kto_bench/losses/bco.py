"""Binary classifier optimisation: the implied reward as the logit of a classifier of desirable completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_bench.losses.base import Completions, Output, ReferencePoint
from kto_bench.losses.class_weights import RatioAdvice
from kto_bench.losses.prospect import Prospect

_REWARDS = "rewards/mean"


class BCO(Prospect):
    r"""BCO with a reward shift.

    .. math::
        L = \begin{cases}
            -\lambda_D \log \sigma(r(x, y) - \delta) & y \text{ desirable} \\
            -\lambda_U \log \sigma(-(r(x, y) - \delta)) & y \text{ undesirable}
        \end{cases}, \qquad r(x, y) = \beta \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Source: Jung et al. (2024), arXiv 2404.04656. Log-ratios are sums over tokens, not divided by the length. Here delta
    is the mean of r over all examples of all earlier steps, and 0 in the first step; no gradient flows through it. The
    paper's delta is (E_D[r] + E_U[r]) / 2, the mean of the two classes' means; trl, from whose implementation
    by the authors the running mean is, takes in the current batch, too. So ours lags trl's by one step, in return for
    which it does not depend on how a batch is split, and differs from the paper's where the classes are not balanced.

    Left out: underlying distribution matching, the reweighting of undesirable completions by a classifier of prompts,
    for feedback whose classes come from different prompts. lambda_D and lambda_U are trl's settings, 1 in the paper.

    As a value of gains it is the concave log sigma; see ``KTOConcave`` for its slope. Statistics: those of
    ``Prospect``, and ``rewards/mean``, r of every example of a class with weight, whose mean so far is the next delta.
    """

    tracked: ClassVar[tuple[str, ...]] = (_REWARDS,)
    advised_ratio: ClassVar[RatioAdvice | None] = None

    def shortfall(self, gain: Tensor) -> Tensor:
        """(n,) -log sigma(g)."""
        return -F.logsigmoid(gain)

    def relative_slope(self, gain: Tensor) -> Tensor:
        """(n,) sigma(-g)."""
        return torch.sigmoid(-gain)

    def __call__(self, completions: Completions, desirable: Tensor, reference_point: Tensor | None) -> Output:
        """Losses of n completions; ``desirable`` is (n,) bool, ``reference_point`` the scalar delta / beta in nats."""
        output = super().__call__(completions, desirable, reference_point)
        rewards, _ = output.statistics["rewards/desirable"]
        counted = torch.where(desirable, self.desirable_weight > 0, self.undesirable_weight > 0)
        return replace(output, statistics={**output.statistics, _REWARDS: (rewards, counted)})

    def reference_point(self, mismatched: Completions | None, past: Mapping[str, float]) -> ReferencePoint:
        """delta / beta in nats, from the mean reward of all earlier examples. Logged as ``delta``, in units of r."""
        delta = torch.tensor(past.get(_REWARDS, 0.0), dtype=torch.float64)
        return ReferencePoint(value=delta / self.beta, statistics={"delta": delta})
