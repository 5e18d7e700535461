"""The command line: ``kto-bench``, Hydra's entry point."""

from __future__ import annotations

import difflib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kto_bench.component import USAGE_ERROR, ConfigError
from kto_bench.feedback.types import FeedbackError
from kto_bench.machines import check_machines
from kto_bench.preemption import EXIT_STATUS, Preempted, Preemption, of_worker
from kto_bench.requeue import in_a_slurm_job, requeue

if TYPE_CHECKING:
    from kto_bench.config import Config

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "conf"


@hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")
def entry(node: DictConfig) -> None:
    """One run. In a multirun every cell comes through here, in this process or in a worker."""
    from kto_bench.cell import run_cell
    from kto_bench.config import resolve
    from kto_bench.run import execute
    from kto_bench.tracking import check_tracking

    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        config = resolve(node)
        check_tracking(config.tracking)
        if not multirun:  # a cell is checked by the process that does it, on whichever machine that is
            check_machines(config.train.nodes, config.processes)
    except (ConfigError, FeedbackError) as error:
        if multirun and node.get("refused") == "skip":
            return  # the ledger has recorded it
        _refuse(str(error))
    if multirun:
        _cell(config)
        return
    minutes = config.run.timeout_minutes
    state = execute(config) if minutes is None else run_cell(config, minutes)
    if state == "preempted":
        raise Preempted
    if state == "failed":
        raise SystemExit(1)


def _cell(config: Config) -> None:
    """Do a cell in a process of its own. The ledger reads the records at the end and sets the exit status."""
    from kto_bench.cell import run_cell
    from kto_bench.run import describe
    from kto_bench.screen import Screen

    worker = multiprocessing.current_process().name != "MainProcess"
    preemption = of_worker() if worker else Preemption()  # first: from here on it can be told
    described, record = describe(config)
    state = record.state()
    if config.run.role == "trial" and record.diverged:
        Screen(described.name).say("lost: its training diverged before")
        return
    if state == "failed" and config.run.retry == "none":
        Screen(described.name).say("failed before and left alone; retry=failed runs it again")
        return
    if state == "done":
        Screen(described.name).say("already done")
        return
    if preemption.requested:
        return
    try:
        if run_cell(config, config.run.timeout_minutes) == "preempted":
            raise Preempted
    except Preempted:
        requeue()
        # Not raised in a worker, since joblib would kill the others while they save; nor in a job that was cancelled,
        # of which the launcher would never hear.
        if not worker and not in_a_slurm_job():
            raise
        preemption.requested = True


def main() -> None:
    """``kto-bench``: complaints about the configuration are one readable message and exit status 2."""
    # A user's own losses, judges and sources lie where the command is typed; workers inherit the path.
    sys.path.append(str(Path.cwd()))
    if "--plan" in sys.argv[1:]:
        sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--plan"]
        sys.argv.append("hydra.callbacks.ledger.only_plan=true")
    # Hydra would print its own errors with advice about stack traces; with this it hands them to us.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _refuse(
            f"WORLD_SIZE: {os.environ['WORLD_SIZE']} processes were started for one run, and a run is one process; "
            "start kto-bench itself, and spread the cells of a multirun with hydra/launcher=processes"
        )
    try:
        _preemptible()
    except (HydraException, OmegaConfBaseException) as error:
        _refuse(explain(error, sys.argv[1:]))
    except ConfigError as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        raise SystemExit(130) from None
    except Preempted as error:
        print(f"preempted: {error}", file=sys.stderr)
        raise SystemExit(EXIT_STATUS) from None


def _preemptible() -> None:
    """``entry``; with workers, SIGTERM is raised only once they have saved and ended."""
    with Preemption(workers=True) as preemption:
        try:
            entry()
        except SystemExit as ended:
            if ended.code:
                preemption.check()
            raise


def _refuse(message: str) -> NoReturn:
    print(
        f"kto-bench: {message}\n\n`kto-bench --help` lists the choices, `kto-bench --cfg job` the fields.",
        file=sys.stderr,
    )
    raise SystemExit(USAGE_ERROR)


def explain(error: Exception, arguments: list[str]) -> str:
    """Hydra's complaint about an override, with the value that was given, what is allowed and the nearest name."""
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        field = str(cause.full_key)
        parent = cause.parent_node
        allowed = sorted(map(str, parent.keys())) if isinstance(parent, DictConfig) else []
        if allowed and field.rpartition(".")[2] not in allowed:
            given = next((a for a in arguments if a.lstrip("+~").split("=")[0] == field), field)
            near = difflib.get_close_matches(field.rpartition(".")[2], allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"{field}: unknown field (in {given!r}); allowed: {', '.join(allowed)}{hint}"
    return str(error).partition("\nConfig search path:")[0].strip()


if __name__ == "__main__":
    main()
