"""Losses that break one clause of the definition of a HALO each, or none, and others that are hard to draw."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F

from kto_bench.losses import Completions, FeedbackKind, Loss, Output
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO


class Paired(Loss):
    feedback: ClassVar[FeedbackKind] = "paired"
    needs_reference: ClassVar[bool] = True


class Binary(Loss):
    feedback: ClassVar[FeedbackKind] = "binary"
    needs_reference: ClassVar[bool] = True


class Hinge(Paired):
    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        return Output(torch.relu(1 - 0.1 * (chosen.log_ratio - rejected.log_ratio)))


class FlippedDPO(DPO):
    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        output = super().__call__(chosen, rejected)
        return Output(-output.losses, output.statistics)


class SwappedDPO(DPO):
    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        return Output(super().__call__(rejected, chosen).losses, super().__call__(chosen, rejected).statistics)


class FlippedKTO(KTO):
    def __call__(
        self, completions: Completions, desirable: torch.Tensor, reference_point: torch.Tensor | None
    ) -> Output:
        output = super().__call__(completions, desirable, reference_point)
        return Output(-output.losses, output.statistics)


class DPOWithLikelihood(DPO):
    """Breaks (1) and (2)."""

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        output = super().__call__(chosen, rejected)
        return Output(output.losses - 0.01 * chosen.policy_log_prob, output.statistics)


class HalfOfTheReference(Paired):
    """Breaks (1) and (2)."""

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        margin = chosen.policy_log_prob - rejected.policy_log_prob
        return Output(-F.logsigmoid(0.1 * (margin - 0.5 * (chosen.reference_log_prob - rejected.reference_log_prob))))


class WeighedByTheReference(Binary):
    """Breaks (2) alone: it is 0 where policy = reference, and what is likely under the reference counts for less."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        sign = torch.where(desirable, 1.0, -1.0)
        return Output(sign * completions.log_ratio * completions.reference_log_prob)


class Square(Binary):
    """Breaks (3): it pulls every completion back to the reference."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        return Output(completions.log_ratio.square())


class Product(Paired):
    """Breaks (3), but not beside a completion at the reference: which way is better depends on the other one."""

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        return Output(-chosen.log_ratio * rejected.log_ratio)


class SquareOfTheRatio(Binary):
    """Breaks (4), in the log-ratio and in the ratio: the more it has, the more it wants."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        return Output(torch.where(desirable, -1.0, 1.0) * (2 * completions.log_ratio).exp())


class SquareOfTheMargin(Paired):
    """The value grows with the square of a positive margin: convex in gains of the chosen completion."""

    def value(self, margin: torch.Tensor) -> torch.Tensor:
        return torch.relu(margin).square()

    def __call__(self, chosen: Completions, rejected: Completions) -> Output:
        margin = chosen.log_ratio - rejected.log_ratio
        rewards = {"rewards/chosen": chosen.log_ratio, "rewards/rejected": rejected.log_ratio}
        every = torch.ones_like(margin, dtype=torch.bool)
        return Output(-self.value(margin), {name: (value.detach(), every) for name, value in rewards.items()})


class CubeOfTheMargin(SquareOfTheMargin):
    """Breaks (4): convex in gains of the chosen completion, and of what a rejected one that is ahead takes away."""

    def value(self, margin: torch.Tensor) -> torch.Tensor:
        return margin**3


class Ratio(Binary):
    """Breaks (4) in the log-ratio only."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        return Output(torch.where(desirable, -1.0, 1.0) * completions.log_ratio.exp())


class HeldConstant(Binary):
    """-r times a weight 1 + r that passes no gradient on: the loss is a parabola, what training follows is too, but
    half as steep. Slope of the value: 1 + r; its integral r + r^2 / 2; minus the loss r + r^2."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        return Output(-(1 + completions.log_ratio.detach()) * completions.log_ratio)


class NotANumber(Binary):
    """Is not a number for gains."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        return Output((-completions.log_ratio).sqrt())


class Broken(Binary):
    """Raises."""

    def __call__(self, completions: Completions, desirable: torch.Tensor, reference_point: None) -> Output:
        raise KeyError("no such thing")
