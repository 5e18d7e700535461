"""Trains the same checkpoint on the same examples in the same batches with this suite and with a peer, in turns.

Prints sequences per second, peak memory, computed positions per real token, model FLOP utilisation and the ratios.
See ``benchmarks/README.md`` for what is counted and what is not.

    python benchmarks/throughput.py --peer trl --loss kto
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import matrix_rates
from synthetic import SHAPES, make_checkpoint, make_rows, write_rows
from turns import TurnError, environment, turn
from work import Work

PEERS = {"trl": "peer_trl.py"}
SPEED_FLOORS = {
    ("kto", "cached"): 2.2,
    ("kto", "live"): 3.0,
    ("dpo", "cached"): 2.0,
    ("dpo", "live"): 2.0,
    ("sft", "none"): 2.0,
}
MEMORY_CEILING, POSITIONS_CEILING = 0.7, 1.1
PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "kto_bench")
AGREEMENT = {"bf16": 0.03, "fp32": 1e-3}
"""Relative difference of the first step's loss, gradient norm and log-probabilities at which both sides agree."""

Turns = list[dict[str, Any]]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--peer", choices=sorted(PEERS), default="trl", help="the other side")
    add("--loss", choices=["kto", "dpo", "sft"], default="kto")
    add(
        "--reference",
        choices=["cached", "live", "both"],
        default="both",
        help="reference log-probabilities computed beforehand and not counted on either side, or in every step by the "
        "peer and charged in full to the suite; sft has no reference",
    )
    add("--repeats", type=int, default=3, help="turns of each side")
    add("--steps", type=int, default=32, help="counted steps of a turn")
    add("--warmup-steps", type=int, default=4, help="steps before them that are not counted, at least 1")
    add(
        "--completions-per-step", type=int, default=16, help="a pair holds two; times --steps it is the size of the set"
    )
    add("--threads", type=int, default=os.cpu_count(), help="CPU threads of every turn; all cores by default")
    add("--shape", choices=sorted(SHAPES), default="small", help="of the randomly initialised model; tiny is for tests")
    add("--lora", type=int, metavar="RANK", help="train adapters of this rank on all linear layers, frozen weights")
    add("--device", choices=["auto", "cpu"], default="auto", help="auto: the GPU where there is one")
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="bf16 is autocast over weights in fp32")
    add("--learning-rate", type=float, default=1e-5)
    add("--max-tokens-per-microbatch", type=int, help="of the suite; its default where not given")
    add("--seed", type=int, default=0)
    add("--output", type=Path, metavar="FILE", help="write every number of every turn as JSON")
    add("--markdown", action="store_true", help="print the tables as Markdown, to paste into a README")
    options = parser.parse_args(arguments)
    if options.warmup_steps < 1 or options.repeats < 1 or options.steps < 1:
        parser.error("--warmup-steps, --repeats and --steps must be at least 1")
    if options.warmup_steps > options.steps:
        parser.error("--warmup-steps repeats the first steps, so it must not exceed --steps")
    return options


def say(text: str) -> None:
    """A note on progress, kept out of the tables."""
    print(text, file=sys.stderr, flush=True)


def prepare_folder(folder: Path, work: Work, options: argparse.Namespace) -> None:
    """Write the checkpoint, the rows and what the peer reads into ``folder``."""
    from suite_data import write_peer_files  # the suite is loaded only once there is something to compare

    shape = SHAPES[options.shape]
    frozen_half = options.lora is not None and options.precision == "bf16"
    make_checkpoint(folder, shape, options.seed, dtype="bfloat16" if frozen_half else "float32")
    write_rows(folder, make_rows(work.loss, work.steps * work.completions_per_step, shape.vocabulary, options.seed))
    work.save(folder)
    write_peer_files(folder, work)


def compare(
    folder: Path, reference: str, peer: str, repeats: int, surroundings: dict[str, str]
) -> tuple[Turns, Turns, Turns]:
    """Turns of both sides, ours first, then the peer, and so on; and the matrix rates measured before each pair."""
    for script in (*(["ours.py"] if reference == "cached" else []), PEERS[peer]):
        say(f"{reference}: {script} fills its caches")
        turn(script, folder, ["--reference", reference, "--prepare"], surroundings)
    ours: Turns = []
    theirs: Turns = []
    rates: Turns = []
    for number in range(repeats):
        rates.append(matrix_rates(int(surroundings["OMP_NUM_THREADS"])))
        for script, turns in (("ours.py", ours), (PEERS[peer], theirs)):
            turns.append(turn(script, folder, ["--reference", reference], surroundings))
            took = turns[-1]["seconds"] + turns[-1]["reference_seconds"]
            say(f"{reference}: turn {number + 1} of {repeats}, {turns[-1]['side']}: {took:.1f} s")
    return ours, theirs, rates


def summarise(work: Work, reference: str, ours: Turns, theirs: Turns, rates: Turns) -> dict[str, Any]:
    """All numbers of one comparison; every list has a value per turn."""
    rate = statistics.median(rates_of[work.precision] for rates_of in rates)
    passes = 2 if work.loss == "kto" else 1
    tokens, flops = ours[0]["tokens"], ours[0]["flops"][reference]

    def side(turns: Turns) -> dict[str, Any]:
        seconds = [one["seconds"] + one["reference_seconds"] for one in turns]
        counts = turns[0]["positions"]
        per_role = {"gradient": tokens, "no gradient": tokens, "reference": tokens * passes}
        computed = sum(counts.get(role, 0) for role in per_role)
        needed = sum(real for role, real in per_role.items() if counts.get(role))
        return {
            "name": turns[0]["side"],
            "seconds": seconds,
            "reference_seconds": [one["reference_seconds"] for one in turns],
            "sequences_per_second": [work.steps * work.completions_per_step / one for one in seconds],
            "tokens_per_second": [tokens / one for one in seconds],
            "peak_memory_mib": [one["memory"]["peak"] for one in turns],
            "memory_above_start_mib": [one["memory"]["above_start"] for one in turns],
            "memory": [one["memory"] for one in turns],
            "positions_per_token": computed / needed,
            "positions_per_token_by_role": {
                role: counts[role] / real for role, real in per_role.items() if counts.get(role)
            },
            "padding_share": max(0.0, 1 - needed / computed),
            "flop_utilisation": [flops / one / rate for one in seconds],
            "positions": counts,
            "first_step": turns[0]["first_step"],
        }

    us, them = side(ours), side(theirs)
    checks = {
        "ids_equal": all(one["ids_equal"] for one in theirs),
        "no_reference_forward_while_timed": reference == "live"
        or not any(one["positions"].get("reference calls") for one in [*ours, *theirs]),
        "first_step_agrees": agrees(us["first_step"], them["first_step"], AGREEMENT[work.precision]),
    }
    ratios = {
        "speed": median(us["sequences_per_second"]) / median(them["sequences_per_second"]),
        "peak_memory": median(us["peak_memory_mib"]) / median(them["peak_memory_mib"]),
        "memory_above_start": median(us["memory_above_start_mib"]) / median(them["memory_above_start_mib"]),
    }
    return {
        "loss": work.loss,
        "reference": reference,
        "ours": us,
        "peer": them,
        "ratios": ratios,
        "checks": checks,
        "tokens": tokens,
        "flops": flops,
        "matrix_rates": rates,
    }


def agrees(ours: dict[str, float], theirs: dict[str, float], tolerance: float) -> bool:
    """Whether the losses, gradient norms and log-probabilities of the first step are the same up to ``tolerance``."""
    names = sorted(ours.keys() & theirs.keys() - {"step", "completions", "learning_rate", "kl"})
    compared = [name for name in names if name in ("loss", "grad_norm") or name.startswith("log_probs/")]
    return {"loss", "grad_norm"} <= set(compared) and all(
        abs(ours[name] - theirs[name]) <= tolerance * abs(theirs[name]) for name in compared
    )


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def spread(values: list[float], digits: int) -> str:
    """Median (lowest to highest)."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(summary: dict[str, Any]) -> list[list[str]]:
    """Rows of the printed table, the header first."""
    us, them, ratios = summary["ours"], summary["peer"], summary["ratios"]
    floor = SPEED_FLOORS[summary["loss"], summary["reference"]]

    def verdict(value: float, bound: float, *, at_least: bool) -> str:
        met = value >= bound if at_least else value <= bound
        return f"{'>=' if at_least else '<='} {bound:g}: {'met' if met else 'NOT MET'}"

    def row(label: str, of: Callable[[dict[str, Any]], str], ratio: float | None, bound: str = "") -> list[str]:
        return [label, of(us), of(them), "" if ratio is None else f"{ratio:.2f}", bound]

    positions = us["positions_per_token"]
    return [
        [f"{summary['loss']}, reference {summary['reference']}", us["name"], them["name"], "ratio", "asked"],
        row(
            "sequences per second",
            lambda side: spread(side["sequences_per_second"], 1),
            ratios["speed"],
            verdict(ratios["speed"], floor, at_least=True),
        ),
        *[
            row(
                label,
                lambda side, name=name: spread(side[f"{name}_mib"], 0),  # type: ignore[misc]
                ratios[name],
                verdict(ratios[name], MEMORY_CEILING, at_least=False),
            )
            for label, name in (
                ("peak memory, MiB", "peak_memory"),
                ("of it above imports and checkpoint, MiB", "memory_above_start"),
            )
        ],
        row(
            "computed positions per real token",
            lambda side: f"{side['positions_per_token']:.3f}",
            positions / them["positions_per_token"],
            verdict(positions, POSITIONS_CEILING, at_least=False),
        ),
        *[
            row(f"  {role}", lambda side, role=role: _of_role(side, role), None)  # type: ignore[misc]
            for role in ("gradient", "no gradient", "reference")
            if role in us["positions_per_token_by_role"] or role in them["positions_per_token_by_role"]
        ],
        row("padding share", lambda side: f"{side['padding_share']:.1%}", None),
        row("model FLOP utilisation", lambda side: f"{median(side['flop_utilisation']):.1%}", None),
        row("first step: loss", lambda side: f"{side['first_step']['loss']:.5f}", None),
        row("first step: gradient norm", lambda side: f"{side['first_step']['grad_norm']:.5f}", None),
    ]


def _of_role(side: dict[str, Any], role: str) -> str:
    value = side["positions_per_token_by_role"].get(role)
    return "none" if value is None else f"{value:.3f}"


def show(rows: list[list[str]], *, markdown: bool) -> str:
    """The table as text."""
    if markdown:
        header, *body = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([header, "| --- " * len(rows[0]) + "|", *body])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def notes(summary: dict[str, Any]) -> list[str]:
    """What the table does not say."""
    rates, checks = summary["matrix_rates"], summary["checks"]
    rate = {name: median([one[name] for one in rates]) / 1e9 for name in ("bf16", "fp32")}
    needed = summary["flops"] / 1e9
    said = [
        f"the machine's matrix rate ({rates[0]['size']} cubed, {rates[0]['threads']} threads): "
        f"{rate['bf16']:,.0f} GFLOP/s in bf16, {rate['fp32']:,.0f} in fp32; the work needs {needed:,.0f} GFLOP",
        *(f"{name.replace('_', ' ')}: {'yes' if held else 'NO'}" for name, held in checks.items()),
    ]
    if summary["reference"] == "live":
        seconds = median(summary["ours"]["reference_seconds"])
        said.append(f"of ours, {seconds:.2f} s are the reference's log-probabilities, charged in full to this one run")
    return said


def main(arguments: list[str]) -> int:
    """Compare, print, and return 0 unless a check failed."""
    options = parse(arguments)
    modes = (
        ["none"]
        if options.loss == "sft"
        else ["cached", "live"]
        if options.reference == "both"
        else [options.reference]
    )
    work = Work(
        options.loss,
        options.precision,
        options.completions_per_step,
        options.steps,
        options.warmup_steps,
        options.learning_rate,
        options.seed,
        options.lora,
        options.max_tokens_per_microbatch,
    )
    summaries = []
    with tempfile.TemporaryDirectory(prefix="kto_bench_throughput_") as temporary:
        folder = Path(temporary)
        try:
            prepare_folder(folder, work, options)
            surroundings = environment(folder, options.threads, options.device)
            for reference in modes:
                turns = compare(folder, reference, options.peer, options.repeats, surroundings)
                summaries.append(summarise(work, reference, *turns))
        except TurnError as error:
            say(str(error))
            return 1
    found = machine(options.threads)
    if options.output is not None:
        everything = {"command": arguments, "machine": found, "comparisons": summaries}
        options.output.write_text(json.dumps(everything, indent=2), encoding="utf-8")
    print(
        f"{found['gpu'] or found['cpu']}, {found['cores']} cores, {found['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    )
    print(f"{options.repeats} turns of each side in alternation: median (lowest to highest)\n")
    for summary in summaries:
        print(show(table(summary), markdown=options.markdown) + "\n")
        print("\n".join(f"- {note}" for note in notes(summary)) + "\n")
    return 0 if all(all(summary["checks"].values()) for summary in summaries) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
