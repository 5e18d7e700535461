"""The processes that train together: one, or several joined by ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from kto_bench.training.device import pick_device
from kto_bench.training.logprobs import Scorer


class Processes:
    """This process among those that train together. Alone, every method is the identity.

    ``rank`` counts from 0 to ``count - 1`` over all machines.
    """

    def __init__(self) -> None:
        """Those of ``torch.distributed`` where this process has joined a group, else this one alone."""
        joined = in_a_group()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.device = torch.device("cuda", torch.cuda.current_device()) if _on_gpus(joined) else pick_device()

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any process."""
        totals = self.sum(torch.tensor(flags, dtype=torch.float32, device=self.device))
        return tuple(bool(total > 0) for total in totals)

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process in order of rank, on the first process; elsewhere an empty list."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.first else None
        dist.gather_object(value, values)
        return values or []

    def wrap(self, scorer: Scorer, sharding: str) -> torch.nn.Module:
        """``scorer`` so that its backward pass *averages* gradients over the processes.

        "none": DistributedDataParallel, every process holds the whole model. "full": FSDP2, which shards weights,
        gradients and optimiser states over the processes by decoder layer. torch's own wrappers rather than
        accelerate's, which offers FSDP2 on accelerators only and keeps one setting per process.
        """
        if self.count == 1:
            return scorer.to(self.device)
        if sharding == "none":
            return DistributedDataParallel(
                scorer.to(self.device), forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        mesh = init_device_mesh(self.device.type, (self.count,))
        for layer in decoder_layers(scorer.policy):
            fully_shard(layer, mesh=mesh)
        fully_shard(scorer, mesh=mesh)
        return scorer

    def backward_context(self, scorer: torch.nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """The context of a forward and backward pass: gradients are exchanged in the last pass of a step only.

        Sharded gradients are exchanged in every pass, since no process has room for whole ones.
        """
        return scorer.no_sync() if isinstance(scorer, DistributedDataParallel) and not last else nullcontext()

    def release(self, scorer: torch.nn.Module) -> None:
        """Let go of the weights that a sharded ``scorer`` gathered in a forward pass and keeps for a backward pass that
        does not come: the next forward pass would use them as they are, however the optimiser has changed them."""
        if isinstance(scorer, FSDPModule):
            scorer.reshard()

    def clip(self, parameters: Iterable[torch.nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a global norm of at most ``max_norm``; the norm before that."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def decoder_layers(policy: Any) -> list[torch.nn.Module]:
    """The layers of a transformers model, as its class names them; empty where it does not."""
    names = set(getattr(policy, "_no_split_modules", None) or ())
    return [module for module in policy.modules() if type(module).__name__ in names]


def is_sharded(module: torch.nn.Module) -> bool:
    """Whether FSDP2 has sharded ``module``."""
    return isinstance(module, FSDPModule)


def in_a_group() -> bool:
    """Whether this process has been joined with others."""
    return dist.is_available() and dist.is_initialized()


def _on_gpus(joined: bool) -> bool:
    return joined and dist.get_backend() == "nccl"
