"""The machines that share a run: every one runs the same command, and the first owns the record."""

from __future__ import annotations

import os
from collections.abc import Mapping

from kto_bench.component import ConfigError

DEFAULT_PORT = "29400"


def machine_rank() -> int:
    """Which of a run's machines this one is, from 0: NODE_RANK, or what Slurm says, else 0."""
    return int(os.environ.get("NODE_RANK") or os.environ.get("SLURM_NODEID") or 0)


def first_machine() -> str | None:
    """``address:port`` at which the first machine's workers are met; None where nothing says so."""
    address = os.environ.get("MASTER_ADDR") or os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    return f"{address}:{os.environ.get('MASTER_PORT') or DEFAULT_PORT}" if address else None


def check_machines(nodes: int, processes: Mapping[str, int]) -> None:
    """Raises ConfigError where ``nodes`` machines could not find each other, or this one has too few GPUs.

    ``processes`` per machine, by the field of each training. For the machine that does the run only: one that hands its
    cells to a cluster knows no address yet, and may have other GPUs.
    """
    for field, count in processes.items():
        if count > 1:
            import torch

            devices = torch.cuda.device_count()  # 0 where training is on the CPU, with any number of processes
            if 0 < devices < count:
                raise ConfigError(
                    f"{field}: {count} is more than the GPUs of this machine, which has {devices}; choose at most "
                    f"{devices}"
                )
    if nodes > 1 and first_machine() is None:
        raise ConfigError(
            f"train.nodes: {nodes} machines have to know the address of the first; start the command with srun, or set "
            "MASTER_ADDR, and NODE_RANK to 0, 1, ... on each"
        )
