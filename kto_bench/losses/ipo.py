"""Identity preference optimisation: regression of the margin on a target."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class IPO(Loss):
    r"""IPO.

    .. math::
        L = \Big(h - \frac{1}{2\beta}\Big)^2, \qquad
        h = \frac{1}{m_w} \log\frac{\pi_\theta(y_w|x)}{\pi_{ref}(y_w|x)}
          - \frac{1}{m_l} \log\frac{\pi_\theta(y_l|x)}{\pi_{ref}(y_l|x)}

    Source: Azar et al. (2023), arXiv 2310.12036, Eq. 17, whose tau is beta here. Two readings of the log-ratios:

    * ``length_normalised`` (default): means over tokens, ``m = |y|``. The authors told the maintainers of TRL that
      their results are of this form (blog post "Preference tuning LLMs with direct preference optimization methods",
      January 2024); TRL and the KTO authors' code have it. The target margin 1 / (2 beta) is in nats per token.
    * else: sums over tokens, ``m = 1``, as the equation is printed. The target margin is in nats for whole completions,
      so the longer they are, the sooner they reach it, and the same beta holds them closer to the reference.

    A margin above the target is lowered again. Where policy and reference agree, the loss is 1 / (4 beta^2). An empty
    completion has the log-ratio 0.

    Statistics: the paired ones, with the implied reward ``beta * log(pi_theta / pi_ref) / m``; the target margin of
    rewards is 1/2.
    """

    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True

    beta: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="tau, the strength of the KL constraint: the target margin of the log-ratios is 1 / (2 beta).",
    )
    length_normalised: bool = Field(
        True, description="Whether log-ratios are means over the tokens of a completion rather than sums."
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_log_ratio = self._log_ratio(chosen)
        rejected_log_ratio = self._log_ratio(rejected)
        return Output(
            losses=(chosen_log_ratio - rejected_log_ratio - 1 / (2 * self.beta)).square(),
            statistics=paired_statistics(
                chosen, rejected, self.beta * chosen_log_ratio, self.beta * rejected_log_ratio
            ),
        )

    def _log_ratio(self, completions: Completions) -> Tensor:
        if not self.length_normalised:
            return completions.log_ratio
        # The clamp only acts on empty completions, whose sum is 0: 0 / 1 rather than 0 / 0.
        return completions.log_ratio / completions.lengths.clamp(min=1)
