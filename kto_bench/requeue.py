"""A preempted job of submitit on Slurm goes back into the queue, by submitit's own means."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from kto_bench.preemption import EXIT_STATUS


def in_a_slurm_job() -> bool:
    """Whether this process was started by submitit on Slurm, for one cell of a multirun."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def requeue() -> None:
    """Have Slurm start this job again; where it will be, this does not return but raises SystemExit.

    To be called when a cell was preempted and has saved, with no ``Preemption`` around. In a job of submitit, SIGUSR2
    then meets submitit's handler, which was there before: it keeps the job's arguments, calls ``scontrol requeue`` and
    exits. Time limits count against ``hydra.launcher.max_num_timeout``, preemptions do not. A job that Slurm requeues
    already only exits, leaving no result, so that the launcher goes on waiting for it. One that was cancelled stays so,
    and this returns; as it does everywhere else than in a job.
    """
    if not in_a_slurm_job():
        return
    job = _job()
    if int(job.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        print("Slurm has requeued this job", file=sys.stderr)
        raise SystemExit(EXIT_STATUS)
    if job.get("JobState", "RUNNING") != "RUNNING":
        print(f"not requeued: Slurm calls the job {job['JobState']}", file=sys.stderr)
        return
    signal.raise_signal(signal.SIGUSR2)


def _job() -> dict[str, str]:
    """What Slurm says about this job; nothing where it does not answer."""
    command = ["scontrol", "--oneliner", "show", "job", os.environ.get("SLURM_JOB_ID", "")]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        print(f"{' '.join(command)}: {error}", file=sys.stderr)
        return {}
    return dict(word.split("=", 1) for word in text.split() if "=" in word)
