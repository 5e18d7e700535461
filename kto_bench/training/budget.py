"""What a training costs, and how many steps of a schedule a budget pays for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import Step
from kto_bench.feedback.token_lists import lengths_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.losses import Loss
from kto_bench.training.config import Budget


@dataclass(frozen=True)
class Costs:
    """The price of a step, from the lengths of its sequences.

    A sequence is a prompt and a completion. With N, the parameters of the model without its embeddings, a token costs
    2 N floating-point operations in a forward pass and 4 N more in a backward one (Kaplan et al. 2020, arXiv
    2001.08361, section 2.1: C = 6 N per token that is trained on; attention over earlier tokens, embeddings and the
    optimiser are left out):

        flops of a step = 6 N tokens trained on
                        + 2 N tokens trained on,  where the loss has a reference
                        + 2 N mismatched tokens,  where it has a reference point (the policy's forward pass)
                        + 2 N mismatched tokens,  where it has both.

    The reference counts in every step, although its log-probabilities are computed once and kept: what a loss costs
    must not depend on what was run before. Adapters are counted as if all weights were trained.
    """

    lengths: np.ndarray
    """(completions,) tokens of each completion with its prompt."""
    prompts: np.ndarray
    """(prompts,) tokens of each prompt."""
    completions: np.ndarray
    """(completions,) tokens of each completion."""
    parameters: int
    forwards: int
    """Forward passes over a sequence that is trained on, besides the training's own: 1 with a reference."""
    mismatched_forwards: int

    @classmethod
    def of(cls, data: TokenisedFeedback, loss: Loss | None, parameters: int) -> Costs:
        """Those of training with ``loss`` on ``data``; None: with a reference and a reference point."""
        reference = loss is None or loss.needs_reference
        prompts, completions = lengths_of(data.prompts), lengths_of(data.completions)
        return cls(data.lengths, prompts, completions, parameters, int(reference), 1 + int(reference))

    def tokens(self, step: Step) -> int:
        """Tokens that the step trains on: prompts and completions of its examples, as the policy sees them."""
        return int(self.lengths[step.units].sum())

    def flops(self, step: Step) -> int:
        """See the class."""
        pairs = step.mismatched
        mismatched = int(self.prompts[pairs[:, 0]].sum() + self.completions[pairs[:, 1]].sum())
        each = (6 + 2 * self.forwards) * self.tokens(step) + 2 * self.mismatched_forwards * mismatched
        return each * self.parameters

    def used(self, steps: list[Step]) -> dict[str, int]:
        """What training on ``steps`` costs, in every unit of a budget."""
        return {
            "completions": sum(step.units.size for step in steps),
            "updates": len(steps),
            "tokens": sum(map(self.tokens, steps)),
            "flops": sum(map(self.flops, steps)),
        }


def within(budget: Budget, costs: Costs, first: Callable[[int], list[Step]]) -> list[Step]:
    """The steps that a budget of tokens or flops pays for; ``first(n)`` are the first n of an endless schedule.

    Raises ConfigError where it does not pay for one.
    """
    price = {"tokens": costs.tokens, "flops": costs.flops}[budget.unit]
    count = 1
    while sum(map(price, first(count))) <= budget.amount:
        count *= 2
    steps = first(count)
    spent = np.cumsum([float(price(step)) for step in steps])
    paid = int(np.searchsorted(spent, budget.amount, side="right"))
    if paid == 0:
        raise ConfigError(
            f"budget.{budget.unit}: {budget.amount:g} does not pay for one step, which costs {spent[0]:g}; raise it, "
            "or lower train.completions_per_step"
        )
    return steps[:paid]
