"""Humanline DPO: the log-ratio of each token is clamped, and the reference follows the policy."""

from __future__ import annotations

from dataclasses import replace

import torch

from kto_bench.losses.base import Completions, Output
from kto_bench.losses.dpo import DPO
from kto_bench.losses.humanline import Humanline


class HumanlineDPO(Humanline, DPO):
    r"""DPO on clamped log-ratios of tokens, with a synced reference.

    .. math::
        L = -\log \sigma\big(\beta\, c(y_w) - \beta\, c(y_l)\big), \qquad
        c(y) = \sum_t \mathrm{clip}\Big(\log\frac{\pi_\theta(y_t|x, y_{<t})}{\pi_{ref}(y_t|x, y_{<t})},\
            \log\epsilon_P,\ \log\epsilon_R\Big)

    Source: Ethayarajh, Liu and Muennighoff (2025), arXiv 2509.24207; see ``Humanline`` for the limits and the sync.

    Statistics: DPO's, with rewards ``beta * c(y)`` relative to the reference of the last sync, and ``clamped/chosen``
    and ``clamped/rejected``, the share of a completion's tokens that are clamped.
    """

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        """Losses of n pairs; row i of both arguments shares a prompt."""
        output = super().__call__(self.clamped(chosen), self.clamped(rejected))
        statistics = dict(output.statistics)
        for label, completions in (("chosen", chosen), ("rejected", rejected)):
            log_probs = completions.policy_log_prob.detach()
            every = torch.ones_like(log_probs, dtype=torch.bool)
            statistics[f"log_probs/{label}"] = (log_probs, every)
            statistics[f"clamped/{label}"] = (self.clamped_share(completions), every)
        return replace(output, statistics=statistics)
