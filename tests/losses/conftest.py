"""Random batches for any loss, whatever kind of feedback it declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from kto_bench.losses.base import Completions, Loss, Output, ReferencePoint

Change = Callable[[Completions], Completions]


@dataclass(frozen=True)
class Batch:
    """One global batch: the columns that a loss is called with, and the mismatched pairs of its reference point."""

    columns: tuple[Completions | Tensor, ...]
    mismatched: Completions

    def rows(self, index: Tensor) -> Batch:
        """The same batch with only the rows ``index``; the mismatched pairs stay those of the global batch."""
        return replace(self, columns=tuple(_rows(column, index) for column in self.columns))

    def completions(self) -> list[Completions]:
        return [column for column in self.columns if isinstance(column, Completions)]

    def change(self, change: Change) -> Batch:
        """The same batch with ``change`` applied to all completions."""
        columns = tuple(change(column) if isinstance(column, Completions) else column for column in self.columns)
        return Batch(columns, change(self.mismatched))

    def reference_point(self, loss: Loss) -> ReferencePoint | None:
        if not loss.has_reference_point:
            return None
        return loss.reference_point(self.mismatched if loss.needs_kl else None, dict.fromkeys(loss.tracked, 0.1))

    def output(self, loss: Loss) -> Output:
        point = self.reference_point(loss)
        extra = (None if point is None else point.value,) if loss.feedback == "binary" else ()
        return loss(*self.columns, *extra)

    def weights(self, loss: Loss) -> Tensor:
        """(n,) weights of the examples."""
        return loss.weights(self.completions()[0].lengths)

    def loss(self, loss: Loss) -> Tensor:
        """The loss of the global batch."""
        output = self.output(loss)
        return output.losses.sum() / self.weights(loss).sum()


def _rows(column: Completions | Tensor, index: Tensor) -> Completions | Tensor:
    if isinstance(column, Tensor):
        return column[index]
    reference = None if column.reference is None else column.reference[index]
    values = None if column.values is None else column.values[index]
    return Completions(column.policy[index], column.mask[index], reference, values)


def make_batch(loss: Loss, *, n: int = 6, t: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    """n random examples of up to t tokens; lengths vary, and are at least 1."""
    generator = torch.Generator().manual_seed(seed)

    def log_probs() -> Tensor:
        return -2 * torch.rand(n, t, generator=generator, dtype=dtype)

    def completions() -> Completions:
        lengths = torch.randint(1, t + 1, (n, 1), generator=generator)
        mask = torch.arange(t) < lengths
        reference = log_probs() if loss.needs_reference else None
        values = log_probs().add(1).requires_grad_() if loss.needs_values else None
        return Completions(log_probs().requires_grad_(), mask, reference, values)

    columns: dict[str, Callable[[], tuple[Completions | Tensor, ...]]] = {
        "demonstrations": lambda: (completions(),),
        "paired": lambda: (completions(), completions()),
        "binary": lambda: (completions(), torch.rand(n, generator=generator) < 0.5),
    }
    return Batch(columns[loss.feedback](), completions())


@pytest.fixture(scope="session", name="make_batch")
def make_batch_fixture() -> Callable[..., Batch]:
    return make_batch
