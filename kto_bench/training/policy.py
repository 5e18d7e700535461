"""The policy of a training stage: the whole model, or low-rank adapters on it; and how it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from kto_bench.models import load_policy, save_policy
from kto_bench.training.config import TrainConfig
from kto_bench.training.lora import add_adapter, merge
from kto_bench.training.processes import Processes, is_sharded

PREFIX = "policy."
"""What the names of the policy's weights begin with inside a Scorer, where a value head may be beside it."""


class TrainablePolicy:
    """``model`` is what is trained: a causal LM of transformers, with adapters inside it if the settings say so."""

    def __init__(
        self, start: Path, config: TrainConfig, seed: int, prepare: Callable[[Any], None] | None = None
    ) -> None:
        """Load the artifact ``start``; ``seed`` is that of the adapters, which change nothing before the first step.

        ``prepare`` changes the loaded model in place, the same way each time.
        """
        self._start, self._config, self._seed, self._prepare = start, config, seed, prepare
        self._adapter, self.model = self._load()

    def _load(self) -> tuple[Any, Any]:
        model = load_policy(self._start)
        if self._prepare is not None:
            self._prepare(model)
        if self._config.lora is None:
            return None, model
        adapter = add_adapter(model, self._config.lora, self._seed)
        return adapter, adapter.get_base_model()

    def save(self, folder: Path, module: torch.nn.Module, tokenizer: Any) -> None:
        """Write the trained policy, adapters merged, to ``folder``. All processes take part, the first one writes.

        ``module`` is the scorer that was trained, wrapped or not; it is used up.
        """
        if is_sharded(module):  # it cannot be saved as it is
            self.save_copy(folder, module, tokenizer)
        elif Processes().first:
            _save(folder, self._adapter, self.model, tokenizer)

    def save_copy(self, folder: Path, module: torch.nn.Module, tokenizer: Any) -> None:
        """As ``save``, amid training, which goes on unchanged: the trained weights are put into a fresh copy of the
        start."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights = get_model_state_dict(module, options=options)
        if not Processes().first:
            return
        adapter, model = self._load()
        trained = {name.removeprefix(PREFIX): weight for name, weight in weights.items() if name.startswith(PREFIX)}
        unknown = model.load_state_dict(trained, strict=False).unexpected_keys
        wanted = {name for name, weight in model.named_parameters() if weight.requires_grad}
        if unknown or wanted - set(trained):
            raise RuntimeError(
                "the trained policy cannot be put together: "
                f"unknown weights {unknown[:3]}, missing ones {sorted(wanted - set(trained))[:3]}"
            )
        _save(folder, adapter, model, tokenizer)


def _save(folder: Path, adapter: Any, model: Any, tokenizer: Any) -> None:
    policy = model if adapter is None else merge(adapter)
    save_policy(folder, policy.cpu(), tokenizer)
