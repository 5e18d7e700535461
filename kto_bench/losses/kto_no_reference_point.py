"""KTO without its reference point: gains and losses are told apart by the reference model alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from kto_bench.losses.base import Completions, ReferencePoint
from kto_bench.losses.kto import KTO


class KTONoReferencePoint(KTO):
    r"""KTO with z_0 = 0.

    .. math::
        L = \begin{cases}
            \lambda_D\, (1 - \sigma(\beta r(x, y))) & y \text{ desirable} \\
            \lambda_U\, (1 - \sigma(-\beta r(x, y))) & y \text{ undesirable}
        \end{cases}, \qquad r(x, y) = \log\frac{\pi_\theta(y|x)}{\pi_{ref}(y|x)}

    Source: the ablation "without z_0" of Ethayarajh et al. (2024), arXiv 2402.01306 version 4; ``kto-zero`` in the
    authors' code. It is the unpaired form of APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266). The authors also
    advise z_0 = 0 where KTO follows fine-tuning on the same desirable completions, since z_0 is then soon near 0.

    No mismatched pairs are scored, so steps are cheaper than KTO's and may hold a single completion.
    """

    needs_kl: ClassVar[bool] = False

    def reference_point(self, mismatched: Completions | None, past: Mapping[str, float]) -> ReferencePoint:
        """Raises TypeError: the loss has no reference point."""
        return super(KTO, self).reference_point(mismatched, past)
