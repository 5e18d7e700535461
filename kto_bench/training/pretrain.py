"""Pretraining from scratch: next-token prediction on a corpus, for models small enough to be made on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForCausalLM, get_cosine_schedule_with_warmup

from kto_bench.seeds import derive

if TYPE_CHECKING:
    from kto_bench.models import Progress, Scratch


def pretrain(source: Scratch, tokenizer: Any, seed: int, progress: Progress) -> Any:
    """A model of ``source.architecture`` trained on ``source.pretrain.tokens`` tokens of its corpus.

    Initialisation and corpus have streams of their own, both derived from ``seed``.
    """
    settings = source.pretrain
    torch.manual_seed(derive(seed, "initialisation"))
    architecture = {**source.architecture}
    config = AutoConfig.for_model(
        architecture.pop("model_type"),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **architecture,
    )
    model = AutoModelForCausalLM.from_config(config)
    tokens_per_step = settings.sequences_per_step * settings.sequence_tokens
    steps = max(1, settings.tokens // tokens_per_step)
    stream = torch.from_numpy(source.corpus.stream(steps * tokens_per_step, derive(seed, "corpus"))).long()
    batches = stream.view(steps, settings.sequences_per_step, settings.sequence_tokens)

    accelerator = Accelerator()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    scheduler = get_cosine_schedule_with_warmup(optimiser, round(settings.warmup_fraction * steps), steps)
    model, optimiser = accelerator.prepare(model.train(), optimiser)
    for step, batch in enumerate(batches, start=1):
        ids = batch.to(accelerator.device)
        accelerator.backward(model(input_ids=ids, labels=ids, use_cache=False).loss)
        accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        progress(step, steps)
    return accelerator.unwrap_model(model)
