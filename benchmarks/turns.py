"""Turns in processes of their own, so that the peak memory of each is its own and nothing is warm from before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class TurnError(RuntimeError):
    """A turn failed. The message holds the end of what it printed."""


def environment(folder: Path, threads: int, device: str) -> dict[str, str]:
    """The same for every turn: threads, no network, caches inside ``folder``, a CPU alone where that is asked for."""
    fixed = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TQDM_DISABLE": "1",
        "WANDB_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
    }
    if device == "cpu":
        fixed["CUDA_VISIBLE_DEVICES"] = ""
    inherited = dict(os.environ)
    if inherited.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Compiled modules are kept between turns all the same: compiling them anew takes seconds and memory.
        inherited.setdefault("PYTHONPYCACHEPREFIX", str(folder / "compiled"))
    return {**inherited, **fixed}


def run(script: str, arguments: list[str], surroundings: dict[str, str]) -> str:
    """Run a script of this folder with this Python; what it printed to its standard output."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], env=surroundings, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise TurnError(f"{script} {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def turn(script: str, folder: Path, arguments: list[str], surroundings: dict[str, str]) -> dict[str, Any]:
    """Run a script that writes a result file, and read it."""
    result = folder / f"{Path(script).stem}_result.json"
    result.unlink(missing_ok=True)
    run(script, [str(folder), str(result), *arguments], surroundings)
    answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return answer
