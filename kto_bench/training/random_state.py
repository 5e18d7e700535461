"""The states of the random generators of a process, to be saved and restored with a training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states of all generators that have no name of their own, as JSON: Python's, numpy's and torch's."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in _cuda_states()],
    }


def set_random_state(states: Mapping[str, Any]) -> None:
    """Go back to what ``random_state`` returned; devices that were not there then keep theirs."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numbers, *rest = states["numpy"]
    np.random.set_state((name, np.array(numbers, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    for device, state in enumerate(states["cuda"][: len(_cuda_states())]):
        torch.cuda.set_rng_state(torch.tensor(state, dtype=torch.uint8), device)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
