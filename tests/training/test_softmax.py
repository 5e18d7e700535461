"""The log-softmax at targets, against torch's cross-entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from kto_bench.training.softmax import log_probs_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocabulary"), [(7, 200_000), (3, 600_000), (1, 5), (11, 50)])
def test_values_and_gradients_over_several_blocks(rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (5 * torch.randn(rows, vocabulary)).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows,))
    weight = torch.randn(rows)
    # In fp64: over so many logits torch's own fp32 is less exact than ours.
    got, expected = log_probs_of(logits, targets), -cross_entropy(logits.double(), targets, reduction="none")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-6)
    gradients = [torch.autograd.grad((values * weight.to(values.dtype)).sum(), logits)[0] for values in (got, expected)]
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5 if dtype is torch.float32 else 1e-2)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    values = log_probs_of(logits, torch.tensor([1]))
    assert values.tolist() == [-2e4]
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert gradient.tolist() == [[-1.0, 1.0, 0.0]]
