"""Asks a loss, through its own code, what one completion is worth to it.

Nothing here knows the equation of any loss. A probe makes up completions whose log-probabilities it can choose, moves
one of them and reads the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kto_bench.losses import Completions, Loss, Output

ROLES = {
    "paired": ("chosen", "rejected"),
    "binary": ("desirable", "undesirable"),
    "demonstrations": ("demonstrations",),
}
"""The classes of completions that a loss sees, by its kind of feedback; the one that people liked comes first."""
DISLIKED = ("rejected", "undesirable")

TOKENS, NATS = 20, 20.0
"""A completion has 20 tokens, each of log-probability -20 nats under the reference: unlikely, so that it can be made as
much likelier as every loss's range asks for."""
USUAL_NATS = 3.0
"""What a token is more usually worth: a completion of such tokens cannot gain more than 60 nats."""
CERTAIN = 1e-3
"""Nats: a token whose log-probability would be above minus this is as good as certain, and left out."""


@dataclass(frozen=True)
class Context:
    """What a completion is judged beside: all zero means that everything else is at the reference point.

    ``other``: log-ratio of the other completion of its pair, in nats. ``scalar``: the reference point, in the loss's
    unit; None for the one that the loss itself reads off a batch at the reference. ``value``: what the value head
    expects.
    """

    other: float = 0.0
    scalar: float | None = None
    value: float = 0.0


AT_REFERENCE = Context()


@dataclass(frozen=True)
class Reading:
    """(n,) float64 tensors: the loss, and its first and second derivative in the log-ratio, per nat."""

    loss: Tensor
    slope: Tensor
    curvature: Tensor


@dataclass(frozen=True)
class Probe:
    """Completions of ``tokens`` tokens of ``-nats`` each under the reference, and log-ratios spread evenly over them.

    A loss with a value head judges tokens rather than completions, so ``Probe.of`` gives it completions of one token.
    """

    loss: Loss
    tokens: int = TOKENS
    nats: float = NATS

    @classmethod
    def of(cls, loss: Loss) -> Probe:
        """The probe with which value functions are drawn."""
        return cls(loss, tokens=1, nats=TOKENS * NATS) if loss.needs_values else cls(loss)

    @property
    def roles(self) -> tuple[str, ...]:
        """The classes of completions that the loss sees."""
        return ROLES[self.loss.feedback]

    @property
    def largest(self) -> float:
        """The largest log-ratio, in nats, that a completion can have: beyond it, it would be more than certain."""
        return self.tokens * (self.nats - CERTAIN)

    def completions(self, log_ratio: Tensor, value: float = 0.0) -> Completions:
        """n completions with the (n,) ``log_ratio``, in nats."""
        reference = torch.full((len(log_ratio), self.tokens), -self.nats, dtype=torch.float64)
        return Completions(
            policy=reference + log_ratio[:, None] / self.tokens,
            mask=torch.ones_like(reference, dtype=torch.bool),
            reference=reference if self.loss.needs_reference else None,
            values=torch.full_like(reference, value) if self.loss.needs_values else None,
        )

    def output(self, role: str, log_ratio: Tensor, context: Context = AT_REFERENCE) -> Output:
        """The loss of n examples in each of which one completion, of class ``role``, has the (n,) ``log_ratio``."""
        moved = self.completions(log_ratio, context.value)
        if self.loss.feedback == "paired":
            still = self.completions(torch.full_like(log_ratio, context.other), context.value)
            return self.loss(moved, still) if role == "chosen" else self.loss(still, moved)
        if self.loss.feedback == "binary":
            liked = torch.full(log_ratio.shape, role == "desirable")
            return self.loss(moved, liked, self._scalar(context))
        return self.loss(moved)

    def _scalar(self, context: Context) -> Tensor | None:
        if not self.loss.has_reference_point:
            return None
        scalar = self.read_off(0.0) if context.scalar is None else context.scalar
        return torch.tensor(scalar, dtype=torch.float64)

    def read_off(self, log_ratio: float) -> float:
        """The reference point that the loss reads off batches, this one and earlier ones, of that log-ratio in nats."""
        batch = self.completions(torch.full((2,), log_ratio, dtype=torch.float64))
        past: dict[str, float] = {}
        if self.loss.tracked:
            start = torch.zeros((), dtype=torch.float64)
            logged = self.loss(batch, torch.tensor([True, False]), start).statistics
            past = {name: float(logged[name][0][logged[name][1]].mean()) for name in self.loss.tracked}
        return float(self.loss.reference_point(batch if self.loss.needs_kl else None, past).value)

    def read(self, role: str, log_ratio: Tensor, context: Context = AT_REFERENCE) -> Reading:
        """Loss, slope and curvature at the (n,) ``log_ratio``; where autograd knows no second derivative, 0."""
        at = log_ratio.detach().to(torch.float64).requires_grad_()
        losses = self.output(role, at, context).losses
        slope = _derivative(losses, at)
        return Reading(losses.detach(), slope.detach(), _derivative(slope, at).detach())

    def reward(
        self, role: str, log_ratio: Tensor, context: Context = AT_REFERENCE, of: str | None = None
    ) -> Tensor | None:
        """(n,) implied reward, as the loss logs it, of the completion that is moved; None for a loss that logs none.

        ``of``: the class whose reward to read instead, such as that of the completion beside the one that is moved.
        """
        logged = self.output(role, log_ratio, context).statistics.get(f"rewards/{of or role}")
        return None if logged is None else logged[0].detach()

    def scale(self, role: str) -> float | None:
        """Implied reward per nat of log-ratio, read off what the loss logs near the reference; None if it logs none."""
        step = 0.25
        logged = self.reward(role, torch.tensor([-step, step], dtype=torch.float64))
        slope = float(f"{float(logged.diff()) / (2 * step):.9g}") if logged is not None else 0.0
        return slope if 0 < slope < float("inf") else None


def _derivative(values: Tensor, at: Tensor) -> Tensor:
    """Of (n,) values in ``at``, each of which depends on its own entry only; 0 where they do not depend on it."""
    if not values.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(values.sum(), at, create_graph=True, allow_unused=True)
    return torch.zeros_like(at) if gradient is None else gradient
