"""Odds ratio preference optimisation: a likelihood term, and a preference in log-odds."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.statistics import paired_statistics


class ORPO(Loss):
    r"""ORPO.

    .. math::
        L = -\log p_w - \lambda \log \sigma\Big(\log \frac{p_w}{1 - p_w} - \log \frac{p_l}{1 - p_l}\Big), \qquad
        \log p = \frac{1}{|y|} \log \pi_\theta(y|x)

    Source: Hong, Lee and Thorne (2024), arXiv 2403.07691, Eqs. 4 and 7; lambda is ``odds_weight``. The likelihood
    term is per token of the chosen completion, the prompt excluded; the authors' code and TRL take the mean over all
    tokens of the chosen examples of a micro-batch, with the prompts (the authors' code can leave them out).

    A completion of probability 1 has infinite odds, and their slope, 1 / (1 - p), grows without bound on the way there:
    inside 1 - p, log p is held below minus one machine epsilon, so that losses and gradients are finite. An empty
    completion has the log-odds 0 and no likelihood term.

    Statistics: the paired ones, with the reward ``log(p / (1 - p))``, the log-odds. (TRL logs lambda * log p instead.)
    """

    feedback: ClassVar[FeedbackKind] = "paired"

    odds_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="lambda, the weight of the odds ratio beside the likelihood."
    )

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        chosen_rewards = self._log_odds(chosen)
        rejected_rewards = self._log_odds(rejected)
        return Output(
            losses=-chosen.mean_log_prob - self.odds_weight * F.logsigmoid(chosen_rewards - rejected_rewards),
            statistics=paired_statistics(chosen, rejected, chosen_rewards, rejected_rewards),
        )

    def _log_odds(self, completions: Completions) -> Tensor:
        log_p = completions.mean_log_prob
        below_one = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
        # expm1 keeps 1 - p where p is close to 1; where p is small, log(1 - p) is lost beside log p in any case.
        log_odds = log_p - torch.log(-torch.expm1(below_one))
        return torch.where(completions.lengths > 0, log_odds, 0.0)
