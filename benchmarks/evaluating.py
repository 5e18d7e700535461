"""How long the evaluation of checkpoints takes: completions with their judgements and the sandbox's benchmarks.

    python benchmarks/evaluating.py --processes 2 --output evaluating.json artifacts/align/*/

Each checkpoint (a folder in the format of transformers, such as the policies that a finished quickstart keeps under
artifacts/align) is one cell without training, evaluated by the public command in empty folders.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from sweep_overhead import stage_seconds, timed

ALLOWED_SECONDS = 180.0
"""For 16 checkpoints of the quickstart's model with 200 prompts each on two cores."""


def main() -> None:
    """Measure, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--output", type=Path, help="where to write the numbers as JSON")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="one more override")
    parser.add_argument("checkpoints", nargs="+", type=Path)
    options = parser.parse_args()
    folders = [path.resolve() for path in options.checkpoints if (path / "config.json").is_file()]
    if not folders:
        raise SystemExit("none of these is a checkpoint: a folder with config.json, weights and a tokenizer")
    overrides = [
        "model=hub", f"model.path={','.join(map(str, folders))}", "start=base", "loss=none", "tracking=none",
        "evaluation=sandbox", f"evaluation.prompts.count={options.prompts}", "sweep=evaluating", *options.set,
        "hydra/launcher=processes", f"hydra.launcher.n_jobs={options.processes}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        seconds = timed([sys.executable, "-m", "kto_bench", "-m", *overrides], folder)
        stages = stage_seconds(folder)
    numbers = {
        "checkpoints": len(folders),
        "prompts": options.prompts,
        "processes": options.processes,
        "wall_seconds": round(seconds, 1),
        "seconds_by_stage": {name: {"count": len(of), "sum": round(sum(of), 2)} for name, of in stages.items()},
        "allowed": ALLOWED_SECONDS,
    }
    print(json.dumps(numbers, indent=2))
    if options.output:
        options.output.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
