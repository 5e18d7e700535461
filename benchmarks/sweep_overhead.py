"""What a sweep costs beside its work: wall time of a grid with joblib, over the time of its distinct stages.

    python benchmarks/sweep_overhead.py --model sandbox_tiny --output overhead.json

The quickstart's main losses from both starts with two seeds, 12 cells, twice in empty folders: first all of it in one
process, one stage after another, which gives the seconds of each distinct stage; then by the public command on two
processes. With OMP_NUM_THREADS=1 in both, as joblib sets it. On a machine that does nothing else, or the numbers are of
no use.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

ALLOWED = 0.65 * 1.1
"""Wall time over the sum of the stages that is allowed on two processes: 0.65, and 10% for everything else."""
AXES = {"loss": ["dpo", "kto", "simpo"], "start": ["base", "sft"], "seed": ["0", "1"]}  # quickstart's order
CONF = Path(__file__).resolve().parent.parent / "conf"


def one_after_another(overrides: list[str]) -> None:
    """All cells in this process, in the present folder."""
    from hydra import compose, initialize_config_dir

    from kto_bench.config import resolve
    from kto_bench.run import execute

    with initialize_config_dir(str(CONF), version_base="1.3"):
        for values in product(*AXES.values()):
            cell = [f"{name}={value}" for name, value in zip(AXES, values, strict=True)]
            state = execute(resolve(compose("config", [*overrides, *cell])))
            if state != "done":
                raise SystemExit(f"{' '.join(cell)}: {state}")


def stage_seconds(folder: Path) -> dict[str, list[float]]:
    """Of each distinct stage below ``folder``, by name."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.glob("artifacts/*/*/stage.json")):
        seconds[path.parent.parent.name].append(json.loads(path.read_text())["wall_seconds"])
    return dict(seconds)


def timed(command: list[str], folder: Path) -> float:
    """Seconds that ``command`` takes in ``folder``, which is made. Raises CalledProcessError with its output shown."""
    folder.mkdir()
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    seconds = time.monotonic() - started
    if done.returncode:
        sys.stderr.write(done.stderr.decode()[-4000:])
        raise subprocess.CalledProcessError(done.returncode, command)
    return seconds


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox_tiny")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--serially", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="more overrides for all cells, such as train.steps=10")
    options = parser.parse_args()
    overrides = [f"model={options.model}", "feedback=sandbox", "tracking=none", "sweep=overhead", *options.overrides]
    if options.serially:
        one_after_another(overrides)
        return
    axes = [f"{name}={','.join(values)}" for name, values in AXES.items()]
    launcher = ["hydra/launcher=processes", f"hydra.launcher.n_jobs={options.processes}"]
    with tempfile.TemporaryDirectory() as scratch:
        script = [sys.executable, str(Path(__file__).resolve()), "--serially", "--model", options.model]
        serial = timed([*script, *options.overrides], Path(scratch) / "serial")
        stages = stage_seconds(Path(scratch) / "serial")
        command = [sys.executable, "-m", "kto_bench", "-m", *overrides, *axes, *launcher]
        parallel = timed(command, Path(scratch) / "parallel")
        again = stage_seconds(Path(scratch) / "parallel")
        if {name: len(values) for name, values in stages.items()} != {name: len(of) for name, of in again.items()}:
            raise SystemExit(f"the sweep built other stages than one process does: {again} and not {stages}")
        started = time.monotonic()
        subprocess.run(command, cwd=Path(scratch) / "parallel", stderr=subprocess.DEVNULL, check=True)
        relaunch = time.monotonic() - started
    total = sum(map(sum, stages.values()))
    numbers = {
        "model": options.model,
        "processes": options.processes,
        "overrides": options.overrides,
        "stage_seconds": total,
        "seconds_by_stage": {name: {"count": len(of), "sum": round(sum(of), 2)} for name, of in stages.items()},
        "stage_seconds_in_the_sweep": sum(map(sum, again.values())),
        "serial_wall_seconds": serial,
        "sweep_wall_seconds": parallel,
        "relaunch_wall_seconds": relaunch,
        "ratio": parallel / total,
        "allowed": ALLOWED,
    }
    print(json.dumps(numbers, indent=2))
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
