"""Where models compute, and in which precision."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def pick_device() -> torch.device:
    """The device that accelerate chooses: an accelerator if there is one, else the CPU."""
    return Accelerator().device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a model computes: ``fp32``, or ``bf16`` for matrix products with weights in fp32.

    torch's own context rather than accelerate's, whose precision is fixed once per process: the cells of a sweep, and
    the stages of a run, may differ.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
