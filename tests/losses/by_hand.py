"""Tools for values derived by hand: ragged batches, comparisons, and proof that a check notices a wrong loss."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kto_bench.losses.base import Completions


def completions(policy: list[list[float]], reference: list[list[float]] | None = None) -> Completions:
    """Ragged rows as padded tensors; the padding holds 99, which shows when it is not ignored."""
    width = max(len(row) for row in policy)

    def pad(rows: list[list[float]]) -> Tensor:
        return torch.tensor([row + [99.0] * (width - len(row)) for row in rows], dtype=torch.float64)

    mask = torch.tensor([[i < len(row) for i in range(width)] for row in policy])
    return Completions(pad(policy).requires_grad_(), mask, None if reference is None else pad(reference))


def assert_equals(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-8)


def logged(output: Any, name: str) -> float:
    values, applies = output.statistics[name]
    return float(values[applies].mean())


def assert_noticed(
    cls: type, old: str, new: str, check: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``check`` fails on a copy of the class in which its file's ``old`` is ``new``."""
    source = inspect.getsource(sys.modules[cls.__module__])
    assert old in source, "the loss was rewritten: state this mutation in its new words"
    module = ModuleType("mutated_loss")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source.replace(old, new), module.__name__, "exec"), module.__dict__)
    with pytest.raises(AssertionError):
        check(getattr(module, cls.__name__))
