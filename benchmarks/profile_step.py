"""Where the time of training steps of this suite goes, by kind of work, from torch's profiler.

    python benchmarks/profile_step.py --loss kto

Shares are of the time inside operators (their own time, without that of the operators they call), and the last row is
the time of the steps outside of all operators: Python, data, and waiting for an accelerator.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from synthetic import SHAPES, make_checkpoint, make_rows, write_rows
from throughput import show
from work import Work

OPERATORS = {
    "attention": ("scaled_dot_product", "flash_attention", "packed_attention"),
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn", "linear", "matmul", "gemm"),
    "optimiser": ("_fused_adamw", "_foreach", "linalg_vector_norm", "zero_"),
    "loss": (
        "log_softmax",
        "softmax",
        "logsumexp",
        "nll_loss",
        "cross_entropy",
        "log_sigmoid",
        "sigmoid",
        "gather",
        "scatter",
    ),
    "casts and copies": ("copy", "to", "_to_copy", "clone", "contiguous", "cat", "index", "fill", "empty", "zeros"),
    "norms, rotary, activation": (
        "mul",
        "add",
        "pow",
        "rsqrt",
        "mean",
        "silu",
        "gelu",
        "neg",
        "sum",
        "div",
        "sub",
        "layer_norm",
    ),
}
"""Kinds of work and what the names of their operators begin with (attention: contain). The first that fits counts."""
HEAD = "matrix products of the output head"


def kind_of(name: str, shapes: list[Any], vocabulary: int) -> str:
    """The kind of work of an operator, from its name and the shapes of its arguments."""
    operator = name.removeprefix("aten::").removeprefix("mkldnn::").removeprefix("torch::")
    if any(part in operator for part in OPERATORS["attention"]):
        return "attention"
    for kind, names in OPERATORS.items():
        if any(operator.lstrip("_").startswith(one.lstrip("_")) for one in names):
            if kind == "matrix products" and any(vocabulary in shape for shape in shapes if isinstance(shape, list)):
                return HEAD
            return kind
    return "other operators"


def main(arguments: list[str]) -> None:
    """Profile a few steps after a warm-up and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=["kto", "dpo", "sft"], default="kto")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--max-tokens-per-microbatch", type=int)
    parser.add_argument("--lora", type=int, metavar="RANK")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)

    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is loaded
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    work = Work(
        options.loss, options.precision, 16, options.steps, 2, 1e-5, 0, options.lora, options.max_tokens_per_microbatch
    )
    shape = SHAPES[options.shape]
    with tempfile.TemporaryDirectory(prefix="kto_bench_profile_") as temporary:
        folder = Path(temporary)
        make_checkpoint(folder, shape, work.seed)
        write_rows(folder, make_rows(work.loss, 512, shape.vocabulary, work.seed))
        seconds, times = profile(folder, work, shape.vocabulary)
    inside = sum(times.values())
    rows = [[f"{options.loss}, {options.shape}, {options.precision}", "ms per step", "share"]]
    for kind, taken in [*sorted(times.items(), key=lambda item: -item[1]), ("outside of operators", seconds - inside)]:
        rows.append([kind, f"{1e3 * taken / options.steps:.1f}", f"{taken / seconds:.1%}"])
    rows.append(["whole step, profiler included", f"{1e3 * seconds / options.steps:.1f}", ""])
    print(show(rows, markdown=options.markdown))


def profile(folder: Path, work: Work, vocabulary: int) -> tuple[float, dict[str, float]]:
    """Seconds of the counted steps, and of them by kind of work."""
    import torch
    from measure import Positions, synchronise
    from ours import cached_of, policy_of, score_reference, trainer_of
    from suite_data import load, with_warmup
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    data, steps = load(folder, work)
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    if work.loss != "sft":
        score_reference(folder, folder / "reference", work, data, steps, Positions())
    cached = cached_of(folder / "reference", work, steps)
    trainer = trainer_of(folder, work, policy_of(folder, work), data, cached)
    recording = recorder(activities=activities, record_shapes=True)
    done = 0
    started = 0.0

    def on_step(metrics: dict[str, float], timing: dict[str, float]) -> None:
        nonlocal done, started
        done += 1
        if done == work.warmup_steps:
            recording.start()
            synchronise()
            started = time.perf_counter()

    trainer.run(with_warmup(steps, work), folder, on_step)
    synchronise()
    seconds = time.perf_counter() - started
    recording.stop()
    times: dict[str, float] = defaultdict(float)
    for event in recording.key_averages(group_by_input_shape=True):
        taken = event.self_device_time_total if gpu else event.self_cpu_time_total
        times[kind_of(event.key, event.input_shapes, vocabulary)] += taken / 1e6
    return seconds, dict(times)


if __name__ == "__main__":
    main(sys.argv[1:])
