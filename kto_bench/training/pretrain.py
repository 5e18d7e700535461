"""Pretraining from scratch: next-token prediction on a corpus, for models small enough to be made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForCausalLM, get_cosine_schedule_with_warmup

from kto_bench.training.config import PretrainConfig
from kto_bench.training.device import autocast


def pretrain(
    architecture: dict[str, Any],
    tokenizer: Any,
    stream: np.ndarray,
    settings: PretrainConfig,
    seed: int,
    progress: Callable[[int, int], None],
) -> Any:
    """A model initialised from ``seed`` and trained once through ``stream``.

    ``architecture`` holds ``model_type`` and the fields of that configuration of transformers; the vocabulary and the
    special tokens are the tokenizer's. ``stream`` is (settings.whole_tokens,) token ids.
    """
    torch.manual_seed(seed)
    fields = dict(architecture)
    config = AutoConfig.for_model(
        fields.pop("model_type"),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )
    model = AutoModelForCausalLM.from_config(config)
    batches = torch.from_numpy(stream).view(settings.steps, settings.sequences_per_step, -1)

    accelerator = Accelerator()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    warmup = round(settings.warmup_fraction * settings.steps)
    scheduler = get_cosine_schedule_with_warmup(optimiser, warmup, settings.steps)
    model, optimiser = accelerator.prepare(model.train(), optimiser)
    for step, batch in enumerate(batches, start=1):
        ids = batch.to(accelerator.device).long()
        with autocast(accelerator.device, settings.precision):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        progress(step, settings.steps)
    return accelerator.unwrap_model(model)
