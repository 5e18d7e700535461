"""Low-rank adapters by ``peft``: put on a policy before training, merged into its weights afterwards.

The frozen weights plus adapters that begin at zero are the start exactly, so the reference of alignment is the start.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kto_bench.component import ConfigError
from kto_bench.training.config import LoraSettings


def add_adapter(policy: Any, settings: LoraSettings, seed: int) -> Any:
    """``policy`` with LoRA layers, as a ``peft.PeftModel``; only the adapters require a gradient.

    The LoRA layers are put into ``policy`` itself, which ``get_base_model()`` gives back for training. Adapters are
    fp32 whatever the weights are, have no dropout, and start so that the model's outputs do not change: A random from
    ``seed``, B zero (Hu et al. 2021, arXiv 2106.09685, section 4.1; A from Kaiming's uniform distribution, as in the
    authors' code). The caller's random state is left as it is. Raises ConfigError for targets that the model does not
    have.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft computes with it as it is
        target_modules=_target_layers(policy, settings.targets),
        lora_dropout=0.0,
        bias="none",
    )
    # peft draws on the CPU whatever device the policy is on, so no state of an accelerator has to be kept.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return get_peft_model(policy, config, autocast_adapter_dtype=True)


@torch.no_grad()
def merge(adapter: Any) -> Any:
    """The plain ``transformers`` model with the adapters added to its weights, in fp32; ``adapter`` is used up.

    Weights in half precision are converted first: most of what was learnt is smaller than their rounding.
    """
    model = adapter.float().merge_and_unload()
    model.config.dtype = torch.float32
    return model.requires_grad_(True)


def _target_layers(policy: Any, targets: str | tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that get an adapter, never the output head.

    A target names all layers that are called so, wherever they are, as in ``peft``: ``q_proj`` or ``mlp.down_proj``.
    """
    from transformers.pytorch_utils import Conv1D

    head = policy.get_output_embeddings()
    layers = [
        name
        for name, module in policy.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    ]
    if targets == "all-linear":
        return layers
    chosen = {target: [name for name in layers if f".{name}".endswith(f".{target}")] for target in targets}
    missing = [target for target, found in chosen.items() if not found]
    if missing or not chosen:
        known = sorted({name.rpartition(".")[2] for name in layers})
        raise ConfigError(
            f"train.lora.targets: {list(targets)} is not allowed: {', '.join(missing) or 'an empty list'} names no "
            f"linear layer of the model besides its output head; choose all-linear, or among {', '.join(known)}"
        )
    return sorted({name for found in chosen.values() for name in found})
