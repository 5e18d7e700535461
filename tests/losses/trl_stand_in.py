"""TRL's own loss methods, run on our log-probabilities through a stand-in for the trainer."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kto_bench.losses.base import Completions

pytest.importorskip("trl", reason="trl is in the test extra")
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
LONG = 3000

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class Model:
    """Answers each call with the log-probabilities prepared for those input ids; 0 off the mask, as TRL's head does."""

    def __init__(self, *prepared: tuple[Tensor, Completions]) -> None:
        self.prepared = prepared

    def __call__(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        log_probs = next(torch.where(c.mask, c.policy, 0.0) for ids, c in self.prepared if ids is input_ids)
        zeros = torch.zeros_like(log_probs)
        return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def trainer(cls: type, **attributes: Any) -> Any:
    """What TRL's loss methods read from ``self``, without a model or a data set behind it."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=_same, gather_for_metrics=_same)
    stand_in = SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )
    if hasattr(cls, "_compute_kl_logps"):
        stand_in._compute_kl_logps = lambda model, batch: cls._compute_kl_logps(stand_in, model, batch)
    return stand_in


def _same(value: Tensor) -> Tensor:
    return value


def make_completions(n: int, t: int, seed: int, dtype: torch.dtype) -> Completions:
    generator = torch.Generator().manual_seed(seed)

    def log_probs() -> Tensor:
        return -0.05 * torch.rand(n, t, generator=generator, dtype=dtype)

    mask = torch.arange(t) < torch.randint(1, t + 1, (n, 1), generator=generator)
    return Completions(log_probs().requires_grad_(), mask, log_probs())


def inputs(prefix: str, completions: Completions) -> dict[str, Tensor]:
    """TRL's columns: one prompt token in front, so that its shift by one leaves exactly our tokens."""
    mask = torch.nn.functional.pad(completions.mask, (1, 0)).long()
    return {
        f"{prefix}input_ids": torch.ones_like(mask),
        f"{prefix}attention_mask": torch.ones_like(mask),
        f"{prefix}completion_mask": mask,
    }


def backward(loss: Tensor, *completions: Completions) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [c.policy for c in completions]))


def last(stand_in: Any) -> dict[str, float]:
    return {name: values[-1] for name, values in stand_in._metrics["train"].items()}


def mean(statistic: tuple[Tensor, Tensor]) -> float:
    values, applies = statistic
    return float(values[applies].mean())
