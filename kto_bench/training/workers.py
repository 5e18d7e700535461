"""Worker processes for a stage that several processes share: the run starts them itself, on each machine its own."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from kto_bench.machines import first_machine, machine_rank
from kto_bench.preemption import Preempted, Preemption

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: machines start at different times, and large models take long to save."""


class WorkerError(RuntimeError):
    """A worker process failed. The message is the worker's; the cause holds its whole traceback."""


@dataclass(frozen=True)
class Job:
    """What a worker does: the stage called ``stage`` of the run that ``config`` (plain values) describes."""

    config: Mapping[str, Any]
    stage: str
    fingerprint: str
    folder: Path
    inputs: Mapping[str, Path]
    processes_per_node: int
    nodes: int
    digests: Mapping[Any, str]
    """``kto_bench.models.DIGESTS``, so that workers need not read whole checkpoints to know what they are."""


def run_workers(job: Job, on_event: Callable[[str, Any], None], preemption: Preemption) -> None:
    """Start this machine's workers, pass on what they report, wait until all have finished.

    SIGTERM is passed on to the workers, which save and stop; then Preempted is raised. When one worker fails the others
    are stopped and WorkerError tells why.
    """
    gc.collect()
    if torch.cuda.is_initialized():  # what an earlier run's evaluation has left reserved, workers can use
        torch.cuda.empty_cache()
    context = torch.multiprocessing.get_context("spawn")
    events: Any = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as scratch, preemption.deferred(raises=False):
        workers: Any = torch.multiprocessing.start_processes(
            _work, (job, _meeting_point(job, Path(scratch)), events), job.processes_per_node, join=False
        )
        told, stopped, failures = False, None, []
        try:
            finished = False
            while not finished:
                finished = workers.join(timeout=0.1, grace_period=30)
                while not events.empty():
                    kind, value = events.get()
                    if kind == "preempted":
                        stopped = value
                    elif kind == "failed":
                        failures.append(value)
                    else:
                        on_event(kind, value)
                if preemption.requested and not told:
                    told = True
                    for process in workers.processes:
                        process.terminate()  # SIGTERM
        except (ProcessRaisedException, ProcessExitedException) as error:
            while not events.empty():
                kind, value = events.get()
                failures += [value] if kind == "failed" else []
            if preemption.requested:  # SIGTERM found a worker that had not begun to listen
                raise Preempted from error
            raise WorkerError(failures[0] if failures else str(error)) from error
        finally:
            for process in workers.processes:
                if process.is_alive():
                    process.kill()
        if stopped is not None:
            raise Preempted(stopped)
        if failures:  # an interrupted worker ends as if it were done
            raise WorkerError(failures[0])


def _meeting_point(job: Job, scratch: Path) -> str:
    """Where the processes find each other, for ``init_process_group``."""
    if job.nodes == 1:
        return f"file://{scratch / 'rendezvous'}"
    return f"tcp://{first_machine()}"


def _work(local_rank: int, job: Job, meeting_point: str, events: Any) -> None:
    """One worker process."""
    rank = machine_rank() * job.processes_per_node + local_rank
    os.environ.update(LOCAL_RANK=str(local_rank), RANK=str(rank), WORLD_SIZE=str(job.processes_per_node * job.nodes))
    device = None
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // job.processes_per_node))
        if job.nodes == 1:  # a laptop's own name may not resolve to an address
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        with Preemption() as preemption:
            dist.init_process_group(
                "nccl" if device else "gloo",
                init_method=meeting_point,
                rank=rank,
                world_size=job.processes_per_node * job.nodes,
                timeout=PATIENCE,
                device_id=device,
            )
            _check_that_all_came_for(job)
            _build(job, rank, events, preemption)
            # Not after a failure: the others may be waiting for this process, and its end is what tells them.
            dist.destroy_process_group()
    except Preempted as stop:
        events.put(("preempted", str(stop)))
    except BaseException as error:
        where = f"process {rank} on {socket.gethostname()}"
        events.put(("failed", f"{traceback.format_exception_only(error)[-1].strip()} ({where})"))
        raise


def _check_that_all_came_for(job: Job) -> None:
    """Machines find each other by address only, and weights of two runs would mix without an error."""
    mine = (job.stage, job.fingerprint)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    if set(everyone) != {mine}:
        raise RuntimeError(
            f"the machines want to work on different stages: {sorted(set(everyone))}; give all of them the same "
            "command, and one run at a time"
        )


def _build(job: Job, rank: int, events: Any, preemption: Preemption) -> None:
    from kto_bench import models
    from kto_bench.config import resolve
    from kto_bench.screen import Remote
    from kto_bench.stages import Stages
    from kto_bench.watch import Watch

    models.DIGESTS.update(job.digests)

    def report(kind: str, value: Any) -> None:
        if rank == 0:
            events.put((kind, value))

    watch = Watch(Remote(report), lambda metrics, timing: report("metrics", (dict(metrics), dict(timing))), preemption)
    stage = Stages(resolve(job.config), watch).named(job.stage)
    stage.build(job.folder, dict(job.inputs))
