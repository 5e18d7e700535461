"""Peak memory of training steps with a vocabulary of 151,000 tokens against a floor that no trainer can go below.

The floor is parameters + gradients + optimiser state + what the decoder saves for its backward pass, on the batch of
the longest step. The logits, 151,000 numbers per position, are not in it: a trainer that keeps all of them at once ends
far above. See ``benchmarks/README.md``.

    python benchmarks/large_vocabulary.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from synthetic import SHAPES, make_checkpoint, make_rows, write_rows
from throughput import PEERS, machine, say, show
from turns import TurnError, environment, turn
from work import Work

CEILING = 1.3


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--vocabulary", type=int, default=151_000)
    add("--peer", choices=[*sorted(PEERS), "none"], default="none", help="measure this peer as well")
    add("--loss", choices=["kto", "dpo", "sft"], default="kto")
    add("--precision", choices=["bf16", "fp32", "both"], default="both")
    add("--completions-per-step", type=int, default=8, help="the batch")
    add("--steps", type=int, default=6)
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=os.cpu_count())
    add("--shape", choices=sorted(SHAPES), default="small", help="of the body")
    add("--device", choices=["auto", "cpu"], default="auto")
    add("--seed", type=int, default=0)
    add("--output", type=Path, metavar="FILE", help="write every number as JSON")
    add("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if options.steps < 2:
        parser.error("--steps must be at least 2: the optimiser's state exists from the second on")
    return options


def measure(folder: Path, precision: str, options: argparse.Namespace) -> dict[str, Any]:
    """The floor and the peaks of one precision, in MiB."""
    from floor import floor_of
    from suite_data import write_peer_files

    completions = options.completions_per_step * options.steps
    write_rows(folder, make_rows(options.loss, completions, options.vocabulary, options.seed))
    work = Work(options.loss, precision, options.completions_per_step, options.steps, 1, 1e-5, options.seed)  # type: ignore[arg-type]
    work.save(folder)
    write_peer_files(folder, work)
    surroundings = environment(folder, options.threads, options.device)
    reference = "none" if options.loss == "sft" else "cached"
    floor = floor_of(folder, work)
    scripts = ["ours.py", *([PEERS[options.peer]] if options.peer != "none" else [])]
    sides = []
    for script in scripts:
        if reference == "cached" or script != "ours.py":
            turn(script, folder, ["--reference", reference, "--prepare"], surroundings)
        turns = []
        for number in range(options.repeats):
            turns.append(turn(script, folder, ["--reference", reference], surroundings))
            say(f"{precision}: turn {number + 1} of {options.repeats}, {turns[-1]['side']}")
        # The checkpoint is in memory before training starts, so its parameters are added back.
        peaks = [one["memory"]["phases"]["training"] - one["memory"]["before_checkpoint"] for one in turns]
        ratio = statistics.median(peaks) / floor["total"]
        sides.append({"name": turns[0]["side"], "peaks": peaks, "ratio": ratio, "memory": [t["memory"] for t in turns]})
    return {"precision": precision, "floor": floor, "sides": sides}


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = parse(arguments)
    precisions = ["fp32", "bf16"] if options.precision == "both" else [options.precision]
    found = []
    for precision in precisions:
        with tempfile.TemporaryDirectory(prefix="kto_bench_vocabulary_") as temporary:
            make_checkpoint(Path(temporary), SHAPES[options.shape], options.seed, vocabulary=options.vocabulary)
            try:
                found.append(measure(Path(temporary), precision, options))
            except TurnError as error:
                say(str(error))
                return 1
    everything = {"command": arguments, "machine": machine(options.threads), "measurements": found}
    if options.output is not None:
        options.output.write_text(json.dumps(everything, indent=2), encoding="utf-8")
    rows = [["", "peak, MiB: median (lowest to highest)", "floor, MiB", "peak / floor", "asked"]]
    for one in found:
        for side in one["sides"]:
            peaks = side["peaks"]
            met = "met" if side["ratio"] <= CEILING else "NOT MET"
            rows.append(
                [
                    f"{side['name']}, {one['precision']}",
                    f"{statistics.median(peaks):,.0f} ({min(peaks):,.0f} to {max(peaks):,.0f})",
                    f"{one['floor']['total']:,.0f}",
                    f"{side['ratio']:.2f}",
                    f"<= {CEILING:g}: {met}" if side is one["sides"][0] else "",
                ]
            )
    print(show(rows, markdown=options.markdown))
    for one in found:
        parts = ", ".join(
            f"{name.replace('_', ' ')} {size:,.0f}" for name, size in one["floor"].items() if name != "total"
        )
        print(f"- floor in {one['precision']}, MiB: {parts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
