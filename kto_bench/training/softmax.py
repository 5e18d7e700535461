"""The log-softmax at one token of every row, without a second copy of the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 2**17
"""Logits that a CPU works on at a time: 512 KiB in fp32, which stay in its cache."""


def log_probs_of(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,) fp32 log-softmax of (n, vocabulary) ``logits`` of any precision at the (n,) ``targets``, with gradients.

    As ``-cross_entropy(logits.float(), targets)``, but the logits stay as they are and fp32 exists block by block: a
    fifth of the time on a CPU, and a third of the memory for logits in bf16.
    """
    return _LogProbs.apply(logits, targets)


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        # logsumexp rather than log_softmax: on a CPU the latter is off by 1e-5 over 150,000 logits.
        normaliser = torch.cat([block.float().logsumexp(-1) for block in logits.split(_rows(logits))])
        ctx.save_for_backward(logits, targets, normaliser)
        return logits.gather(1, targets.unsqueeze(1)).squeeze(1).float() - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """d log p(target) / d logits = onehot(target) - softmax."""
        logits, targets, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        columns = [tensor.unsqueeze(1) for tensor in (targets, normaliser, gradient)]
        blocks = [tensor.split(_rows(logits)) for tensor in (result, logits, *columns)]
        for into, block, target, total, weight in zip(*blocks, strict=True):
            softmax = (block.float() - total).exp_()
            into.copy_(softmax.mul_(-weight).scatter_add_(1, target, weight))
        return result, None


def _rows(logits: Tensor) -> int:
    return max(1, _BLOCK // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
