"""A real Slurm of one machine, in a folder of its own: munge, the controller and one node, as processes of a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sinfo", "sbatch", "srun", "scontrol", "squeue", "scancel")
CONFIGURATION = """
ClusterName=kto_bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued waits for so many seconds before it may start again; the default is 120.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why this machine cannot run a Slurm of its own; None where it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    absent = [program for program in PROGRAMS if _find(program) is None]
    return f"not installed: {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)" if absent else None


def install(seconds: int = 240) -> None:
    """Install Debian's packages, or leave it at trying."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with suppress(subprocess.SubprocessError):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]):
            subprocess.run(["apt-get", *command], env=environment, capture_output=True, check=True, timeout=seconds)


class SlurmMachine:
    """A context manager; within, clients that are given ``environment`` talk to this Slurm. It is always stopped."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        """``folder`` is made; its path has to be short, since it holds a socket (about 100 characters)."""
        self.folder, self._cpus = folder, cpus
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> SlurmMachine:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if len(self._daemons) == 3:
            with suppress(RuntimeError, subprocess.TimeoutExpired, TimeoutError):
                self._end_jobs()
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def _start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        host = socket.gethostname().partition(".")[0]
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        text = CONFIGURATION.format(host=host, folder=self.folder, cpus=self._cpus, **ports)
        (self.folder / "slurm.conf").write_text(text)
        key, munge_socket = self.folder / "munge.key", self.folder / "munge.socket"
        subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True)
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge_socket}",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        self._wait(munge_socket.exists, "munged")
        self._daemon("slurmctld", "-D")
        self._wait(lambda: "UP" in self.run("scontrol", "ping"), "slurmctld")
        self._daemon("slurmd", "-D", "-N", host)
        self._wait(lambda: self.run("sinfo", "--noheader", "--format=%T") == "idle", "slurmd")

    def _end_jobs(self) -> None:
        """What jobs are still there would outlive the daemons."""
        self.run("scancel", "--user=root")
        for step in self.run("squeue", "--steps", "--noheader", "--format=%i").split():
            with suppress(RuntimeError):
                self.run("scancel", "--signal=KILL", step)
        deadline = time.monotonic() + 30
        while self.run("squeue", "--noheader"):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.5)

    def _daemon(self, program: str, *arguments: str) -> None:
        path = _find(program)
        assert path is not None
        with (self.folder / f"{program}.out").open("wb") as log:
            self._daemons.append(
                subprocess.Popen([path, *arguments], env=self.environment, stdout=log, stderr=subprocess.STDOUT)
            )

    def _wait(self, ready: object, what: str) -> None:
        deadline = time.monotonic() + 40
        assert callable(ready)
        while True:
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                if ready():
                    return
            if time.monotonic() > deadline or self._daemons[-1].poll() is not None:
                logs = "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in self.folder.glob("*.[lo]*"))
                raise RuntimeError(f"{what} did not come up:\n{logs}")
            time.sleep(0.1)


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
