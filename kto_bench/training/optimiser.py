"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from kto_bench.training.config import TrainConfig

SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def build_optimiser(model: Any, config: TrainConfig, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW or RMSprop over all trainable parameters, with a linear warm-up and then the schedule over ``steps``.

    RMSprop keeps PyTorch's defaults, as in the Archangel study of the KTO paper. Weight decay leaves out vectors
    (biases and norms), as is usual.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser: Optimizer
    if config.optimizer == "adamw":
        optimiser = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2), fused=True
        )
    else:
        optimiser = torch.optim.RMSprop(groups, lr=config.learning_rate)
    scheduler = get_scheduler(
        SCHEDULES[config.schedule],
        optimiser,
        num_warmup_steps=round(config.warmup_fraction * steps),
        num_training_steps=steps,
    )
    return optimiser, scheduler
