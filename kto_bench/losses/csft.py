"""Conditional supervised fine-tuning: imitate everything, after a token that says whether people liked it."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from kto_bench.losses.base import Completions, FeedbackKind, Loss, Output


class ConditionalSFT(Loss):
    r"""Conditional SFT.

    .. math::
        L = -\frac{\sum_i \log \pi_\theta(y_i | x_i, c_i)}{\sum_i |y_i|}, \qquad
        c_i = \begin{cases} \texttt{desirable\_token} & y_i \text{ desirable} \\
                            \texttt{undesirable\_token} & y_i \text{ undesirable} \end{cases}

    Source: control tokens as in Quark (Lu et al. 2022, arXiv 2205.13636), Korbak et al. (2023, arXiv 2302.08582) and
    the conditional SFT of Ethayarajh et al. (2024, arXiv 2402.01306), whose tokens these are. The token is new to the
    model and ends the prompt, so it is not predicted itself; at inference prompts end with the desirable one.

    An example's loss is the sum over its tokens and its weight is its number of tokens, so every token of a global
    batch counts the same, whichever its class. The loss is in nats per token.

    Statistics: ``log_probs/desirable`` and ``log_probs/undesirable``, log pi_theta(y|x, c) in nats, summed over tokens.
    """

    feedback: ClassVar[FeedbackKind] = "binary"

    desirable_token: str = Field("<|good|>", description="Ends the prompts of desirable completions, and of inference.")
    undesirable_token: str = Field("<|bad|>", description="Ends the prompts of undesirable completions.")

    @model_validator(mode="after")
    def _two_tokens(self) -> Self:
        for name, token in (("desirable_token", self.desirable_token), ("undesirable_token", self.undesirable_token)):
            if not token or token != token.strip():
                raise ValueError(
                    f"{name} is {token!r}: a control token must not be empty and must not start or end with whitespace"
                )
        if self.desirable_token == self.undesirable_token:
            raise ValueError(
                f"desirable_token and undesirable_token are both {self.desirable_token!r}, so the classes cannot be "
                "told apart: choose two different tokens"
            )
        return self

    @property
    def control_tokens(self) -> tuple[str, str]:
        """The desirable and the undesirable token."""
        return self.desirable_token, self.undesirable_token

    def weights(self, lengths: Tensor) -> Tensor:
        """(n,) number of tokens of each completion."""
        return lengths.to(torch.float32)

    def __call__(self, completions: Completions, desirable: Tensor, reference_point: Tensor | None = None) -> Output:
        """Losses of n completions, scored after their control tokens; ``desirable`` is (n,) bool."""
        log_probs = completions.policy_log_prob
        return Output(
            losses=-log_probs,
            statistics={
                "log_probs/desirable": (log_probs.detach(), desirable),
                "log_probs/undesirable": (log_probs.detach(), ~desirable),
            },
        )
