"""What a loss is: a pure function of per-token log-probabilities, and a declaration of what it needs.

A loss never sees a model, a tokenizer or a device. The training loop calls it once per micro-batch with rows of one
global batch, adds up ``Output.losses`` over the whole global batch and divides by the sum of ``Loss.weights``, so how a
batch is split cannot change a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

FeedbackKind = Literal["demonstrations", "binary", "paired"]


@dataclass(frozen=True)
class Completions:
    """Log-probabilities of n completions given their prompts.

    ``policy`` and ``reference`` are (n, t) float tensors of per-token log-probabilities in nats; ``mask`` is an (n, t)
    bool tensor, true on the tokens of the completion (its end-of-sequence token included). ``reference`` is None for a
    loss that needs none. ``values`` is (n, t), or None for a loss without a value head: what the head expects of the
    rest of the completion before each token; its gradient reaches the head alone. What is off the mask is ignored.
    """

    policy: Tensor
    mask: Tensor
    reference: Tensor | None = None
    values: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """(n,) number of completion tokens."""
        return self.mask.sum(-1)

    @property
    def policy_log_prob(self) -> Tensor:
        """(n,) log pi_theta(y|x): the sum over completion tokens."""
        return torch.where(self.mask, self.policy, 0.0).sum(-1)

    @property
    def mean_log_prob(self) -> Tensor:
        """(n,) log pi_theta(y|x) / |y|, in nats per token; 0 for an empty completion."""
        # The clamp only acts on empty completions, whose sum is 0: 0 / 1 rather than 0 / 0.
        return self.policy_log_prob / self.lengths.clamp(min=1)

    @property
    def reference_log_prob(self) -> Tensor:
        """(n,) log pi_ref(y|x): the sum over completion tokens."""
        return torch.where(self.mask, self._given_reference, 0.0).sum(-1)

    @property
    def log_ratio(self) -> Tensor:
        """(n,) log pi_theta(y|x) - log pi_ref(y|x), in nats, summed over tokens (not divided by the length)."""
        return torch.where(self.mask, self.policy - self._given_reference, 0.0).sum(-1)

    @property
    def _given_reference(self) -> Tensor:
        if self.reference is None:
            raise ValueError("this loss asks for the reference's log-probabilities but declares needs_reference=False")
        return self.reference


@dataclass(frozen=True)
class Output:
    """What a loss returns for n examples.

    ``losses``: (n,) differentiable. ``statistics`` maps a name to (values, applies), both (n,): the mean of ``values``
    over the examples of the global batch where ``applies`` is true is logged.
    """

    losses: Tensor
    statistics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReferencePoint:
    """The value of KTO-like losses' reference point (a scalar without gradient) and what is logged about it."""

    value: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)


class Loss(BaseModel):
    """Base of all losses. Fields are hyper-parameters; class variables say what the loss needs.

    A subclass implements ``__call__`` with the arguments of its kind of feedback:

    * demonstrations: ``loss(completions)``
    * paired:         ``loss(chosen, rejected)`` (row i of both shares a prompt)
    * binary:         ``loss(completions, desirable, reference_point)`` with ``desirable`` an (n,) bool tensor and
      ``reference_point`` the scalar of ``self.reference_point(...)``, or None for a loss that has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    feedback: ClassVar[FeedbackKind]
    needs_reference: ClassVar[bool] = False
    needs_kl: ClassVar[bool] = False
    """Whether ``reference_point`` is estimated from mismatched pairs of the batch, a kind of KL divergence."""
    needs_values: ClassVar[bool] = False
    """Whether a value head is trained beside the policy. It is no part of the checkpoint."""
    tracked: ClassVar[tuple[str, ...]] = ()
    """Names of statistics whose means over all steps so far ``reference_point`` is given."""

    @property
    def has_reference_point(self) -> bool:
        """Whether a scalar read off the whole global batch, or off the steps before it, enters the loss."""
        return self.needs_kl or bool(self.tracked)

    @property
    def control_tokens(self) -> tuple[str, str] | None:
        """Tokens that end the prompts of desirable and of undesirable completions, new to the model.

        The trained checkpoint's chat template ends every generation prompt with the first one.
        """
        return None

    @property
    def sync_every(self) -> int | None:
        """Every how many steps the reference becomes the policy as it is then; None where it stays the start."""
        return None

    def __call__(self, *arguments: Any, **named: Any) -> Output:
        """Losses and statistics of n examples."""
        raise TypeError(f"{type(self).__name__} does not define __call__")

    def weights(self, lengths: Tensor) -> Tensor:
        """(n,) weight of each example in the mean over the global batch, from the (n,) completion lengths in tokens.

        The loss of a global batch is the sum of ``Output.losses`` over the sum of the weights.
        """
        return torch.ones_like(lengths, dtype=torch.float32)

    def reference_point(self, mismatched: Completions | None, past: Mapping[str, float]) -> ReferencePoint:
        """The reference point of one step, with neither gradient nor a part in how the batch is split.

        ``mismatched``: the mismatched (prompt, completion) pairs of the *whole* global batch, or None unless
        ``needs_kl``; the training loop scores them before the step's first gradient. ``past``: for each of ``tracked``,
        the mean over all examples of the steps before to which it applies; a name is absent while there is none.
        """
        raise TypeError(f"{type(self).__name__} has no reference point")

    def implied_rewards(self, completions: Completions) -> Tensor | None:
        """(n,) implied rewards of n completions, without gradient; None for a loss that states none.

        They are what the loss logs as ``rewards/*``, in its own units: its sigmoid, where it has one, is taken of their
        differences (pairs) or of their distance from the reference point (single completions).
        """
        with torch.no_grad():
            if self.feedback == "demonstrations":
                return None
            if self.feedback == "paired":
                statistics = self(completions, completions).statistics
            else:
                if self.needs_values and completions.values is None:  # the head has no part in the reward
                    completions = replace(completions, values=torch.zeros_like(completions.policy))
                every = torch.ones(len(completions.policy), dtype=torch.bool, device=completions.policy.device)
                point = completions.policy.new_zeros(()) if self.has_reference_point else None
                statistics = self(completions, every, point).statistics
        name = "rewards/chosen" if self.feedback == "paired" else "rewards/desirable"
        return statistics[name][0] if name in statistics else None

    @property
    def point_scale(self) -> float:
        """What a nat of the reference point is in units of the implied reward: the field beta of a loss that has it."""
        return float(getattr(self, "beta", 1.0))

    def data_warnings(self, desirable: int, undesirable: int) -> list[str]:
        """What is unwise about training with this loss on so many completions of each class."""
        return []

    def training_warnings(self, metrics: Sequence[Mapping[str, float]]) -> list[str]:
        """What went wrong, as far as the metrics of all steps tell."""
        return []
