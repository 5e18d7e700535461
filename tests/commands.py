"""The commands as a user types them, in processes of their own, and a folder to type them in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tiny import tiny_model, tiny_tokenizer

BIN = Path(sys.executable).parent
SMALL = [
    "model=hub",
    "model.name=tiny",
    "model.path=./checkpoint",
    "feedback=jsonl",
    "feedback.path=pairs.jsonl",
    "feedback.heldout_fraction=0.2",
    "start=base",
    "train.steps=3",
    "train.completions_per_step=8",
    "train.warmup_fraction=0.0",
    "evaluation.generation.max_new_tokens=8",
    "tracking=none",
    "sweep=small",
]
JUDGE = ["judge@evaluation.judge=callable", "evaluation.judge.function=my_module.prefer"]
"""A judge that waits while there is a file ``hold``, and fails while there is a file ``broken``."""
MY_MODULE = """
import pathlib, time

def prefer(instruction, a, b):
    while pathlib.Path("hold").exists():
        time.sleep(0.05)
    if pathlib.Path("broken").exists():
        raise RuntimeError("broken is there\\nand this is a second line")
    return 1 if len(a) <= len(b) else 2
"""


def command(name: str, *arguments: str) -> list[str]:
    """The command line."""
    return [str(BIN / name), *arguments]


def run(folder: Path, *arguments: str, name: str = "kto-bench") -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(name, *arguments), cwd=folder, capture_output=True, text=True, timeout=300)


def small(*overrides: str) -> list[str]:
    """Overrides of a run of seconds."""
    return [*SMALL, *overrides]


def fill(folder: Path) -> Path:
    """Put a checkpoint, feedback and a module into a working folder."""
    tiny_model().save_pretrained(folder / "checkpoint")
    tiny_tokenizer().save_pretrained(folder / "checkpoint")
    rows = [{"prompt": f"w{i}", "chosen": f"w{i + 2} w{i + 3}", "rejected": f"w{i} w{i} w{i}"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_module.py").write_text(MY_MODULE)
    return folder


def states(folder: Path, sweep: str) -> dict[str, str]:
    """The state of each run by the beginning of its name."""
    found = (folder / "results" / sweep).glob("*/status.json")
    return {path.parent.name.rpartition("-")[0]: json.loads(path.read_text())["state"] for path in found}


def everything(*folders: Path) -> dict[Path, tuple[int, bytes]]:
    """Time and content of every file in ``folders``."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
