"""The memory that training cannot do without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from measure import MIB
from suite_data import load
from work import CHECKPOINT, Work

from kto_bench.models import load_policy
from kto_bench.training.device import autocast, pick_device


def saved_by_decoder(model: Any, rows: list[list[int]], precision: str) -> int:
    """Bytes of the distinct storages that the decoder saves for its backward pass on ``rows``, parameters left out.

    Every sequence goes through on its own, so that nothing is padded; copies of weights that autocast makes are counted
    once, as they are when sequences are batched.
    """
    device = next(model.parameters()).device
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}
    keep: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
            keep.append(tensor)  # so that no later tensor is given its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(device, precision):
        outputs = [model.base_model(input_ids=torch.tensor([row], device=device), use_cache=False)[0] for row in rows]
    del outputs
    return sum(storages.values())


def floor_of(folder: Path, work: Work) -> dict[str, float]:
    """MiB of parameters, gradients, optimiser state, the decoder's activations on the heaviest step, and their sum."""
    model = load_policy(folder / CHECKPOINT).to(pick_device())
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    data, steps = load(folder, work)
    batches = [
        [[*data.prompts[data.prompt_of[index]], *data.completions[index]][:-1] for index in step.units.ravel()]
        for step in steps
    ]
    heaviest = max(batches, key=lambda rows: sum(map(len, rows)))
    parts = {
        "parameters": parameters / MIB,
        "gradients": parameters / MIB,
        "optimiser_state": 2 * parameters / MIB,
        "activations_of_the_body": saved_by_decoder(model, heaviest, work.precision) / MIB,
    }
    return {**parts, "total": sum(parts.values())}
