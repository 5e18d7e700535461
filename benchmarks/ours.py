"""One turn of this suite: trains the checkpoint on the rows with its own trainer, and writes what it took.

``python benchmarks/ours.py FOLDER RESULT --reference cached|live|none [--prepare]``; started by ``throughput.py``.

The suite always computes the reference's log-probabilities before training, as artifacts that later runs share.
``cached`` reads them; ``live`` computes them in this turn, in a phase of its own, and charges all of their time.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Clock, Cost, Memory, Positions, memory_in_use, synchronise
from suite_data import load, token_counts, with_warmup
from torch import Tensor
from work import CHECKPOINT, Work, write_json

import kto_bench
from kto_bench.feedback.token_lists import Tokens
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.losses import Loss
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.sft import SFT
from kto_bench.models import load_policy, load_tokenizer, pad_id_of
from kto_bench.training.carried import Cached
from kto_bench.training.config import LoraSettings, TrainConfig
from kto_bench.training.device import pick_device
from kto_bench.training.logprobs import Scorer
from kto_bench.training.loop import Trainer
from kto_bench.training.policy import TrainablePolicy
from kto_bench.training.reference import ReferenceLogProbs, save_reference

LOSSES: dict[str, type[Loss]] = {"kto": KTO, "dpo": DPO, "sft": SFT}


class AfterWarmup:
    """Reference log-probabilities of the counted steps' pairs, after the warm-up's, which are the first of them."""

    def __init__(self, counted: ReferenceLogProbs, warmup_rows: int) -> None:
        self._counted, self._warmup_rows = counted, warmup_rows

    def rows(self, indices: Sequence[int] | np.ndarray, width: int) -> Tensor:
        """As ``ReferenceLogProbs.rows``."""
        wanted = np.asarray(indices)
        return self._counted.rows(np.where(wanted < self._warmup_rows, wanted, wanted - self._warmup_rows), width)


def config_of(work: Work) -> TrainConfig:
    """The settings of the suite's trainer: its defaults but for what the comparison fixes."""
    named: dict[str, Any] = {}
    if work.max_tokens_per_microbatch is not None:
        named["max_tokens_per_microbatch"] = work.max_tokens_per_microbatch
    if work.lora_rank is not None:
        named["lora"] = LoraSettings(rank=work.lora_rank, alpha=2 * work.lora_rank)
    return TrainConfig(
        completions_per_step=work.completions_per_step,
        steps=work.warmup_steps + work.steps,
        learning_rate=work.learning_rate,
        schedule="constant",
        warmup_fraction=0.0,
        max_grad_norm=1.0,
        precision=work.precision,
        **named,
    )


def pairs_of(data: TokenisedFeedback, steps: list[Any]) -> tuple[list[Tokens], list[Tokens]]:
    """Prompts and completions of the steps' mismatched pairs, in order."""
    pairs = [pair for step in steps for pair in step.mismatched]
    return [data.prompts[prompt] for prompt, _ in pairs], [data.completions[completion] for _, completion in pairs]


def score_reference(
    folder: Path, into: Path, work: Work, data: TokenisedFeedback, steps: list[Any], positions: Positions
) -> float:
    """Write the reference's log-probabilities as the suite's stages do; the seconds that it took, loading left out."""
    model = load_policy(folder / CHECKPOINT).to(pick_device())
    scorer = Scorer(model, pad_id_of(load_tokenizer(folder / CHECKPOINT)), precision=work.precision)
    matched = [data.prompts[prompt] for prompt in data.prompt_of], list(data.completions)
    parts: dict[str, tuple[list[Tokens], list[Tokens]]] = {"matched": matched}
    if work.loss == "kto":
        parts["mismatched"] = pairs_of(data, steps)
    with torch.no_grad():  # the first call of a process pays for threads and buffers, as the peer's warm-up steps do
        scorer(parts["matched"][0][:16], parts["matched"][1][:16])
    positions.watch(model, reference=True)
    synchronise()
    started = time.perf_counter()
    for name, (prompts, completions) in parts.items():
        (into / name).mkdir(parents=True, exist_ok=True)
        save_reference(into / name, scorer, prompts, completions, lambda done, total: None)
    synchronise()
    positions.remove()
    return time.perf_counter() - started


def cached_of(cache: Path, work: Work, steps: list[Any]) -> Cached:
    """What ``score_reference`` wrote into ``cache``, as the trainer reads it in the steps with their warm-up."""
    if work.loss == "sft":
        return Cached()
    matched = ReferenceLogProbs.load(cache / "matched")
    if work.loss == "dpo":
        return Cached(matched)
    warmup_rows = sum(len(step.mismatched) for step in steps[: work.warmup_steps])
    mismatched: Any = AfterWarmup(ReferenceLogProbs.load(cache / "mismatched"), warmup_rows)
    return Cached(matched, mismatched)


def trainer_of(folder: Path, work: Work, policy: Any, data: TokenisedFeedback, cached: Cached) -> Trainer:
    """The suite's trainer for this work."""
    pad_id = pad_id_of(load_tokenizer(folder / CHECKPOINT))
    return Trainer(policy, pad_id, data, LOSSES[work.loss](), config_of(work), cached)


def policy_of(folder: Path, work: Work) -> Any:
    """The checkpoint, with adapters where the work is to train those, on the device in use."""
    return TrainablePolicy(folder / CHECKPOINT, config_of(work), work.seed).model.to(pick_device())


def main() -> None:
    """Do one turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--reference", choices=["cached", "live", "none"], required=True)
    parser.add_argument("--prepare", action="store_true", help="fill the cache of the reference, train nothing")
    options = parser.parse_args()
    folder, work = options.folder, Work.load(options.folder)
    cache = folder / "reference"
    data, steps = load(folder, work)
    if options.prepare:
        seconds = (
            score_reference(folder, cache, work, data, steps, Positions()) if options.reference == "cached" else 0.0
        )
        write_json(options.result, {"reference_seconds": seconds})
        return

    before_checkpoint = memory_in_use()
    policy = policy_of(folder, work)
    tokens, completion_tokens = token_counts(data, steps)
    cost = Cost.of(policy, tokens, completion_tokens, frozen=work.lora_rank is not None)
    memory = Memory(before_checkpoint)

    reference_seconds, of_reference = 0.0, Positions()
    if options.reference == "live":
        cache = folder / "live_reference"
        shutil.rmtree(cache, ignore_errors=True)
        reference_seconds = score_reference(folder, cache, work, data, steps, of_reference)
        memory.phase_ends("reference")
    cached = cached_of(cache, work, steps)

    positions, clock = Positions(), Clock(work.warmup_steps, work.steps)
    positions.watch(policy)
    trainer = trainer_of(folder, work, policy, data, cached)
    first: dict[str, float] = {}

    def on_step(metrics: dict[str, float], timing: dict[str, float]) -> None:
        clock.tick()
        if not first:
            first.update(metrics)
        if clock.ticks == work.warmup_steps:
            positions.reset()

    log = folder / "ours_output"
    shutil.rmtree(log, ignore_errors=True)
    log.mkdir()
    memory.phase_ends("preparation")
    started = time.perf_counter()
    trainer.run(with_warmup(steps, work), log, on_step)
    memory.phase_ends("training")
    total = time.perf_counter() - started
    result = {
        "side": f"kto_bench {kto_bench.__version__}",
        "seconds": clock.seconds,
        "reference_seconds": reference_seconds,
        "train_seconds_with_warmup": total,
        "memory": memory.report(),
        "positions": {**of_reference.counts, **positions.counts},
        "tokens": tokens,
        "completion_tokens": completion_tokens,
        "flops": {
            mode: cost.flops(kl=work.loss == "kto", live_reference=mode == "live")
            for mode in ("cached", "live", "none")
        },
        "first_step": first,
    }
    write_json(options.result, result)


if __name__ == "__main__":
    main()
