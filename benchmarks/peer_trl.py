"""One turn of trl: trains the checkpoint on the rows in the order of the suite's schedule, and writes what it took.

``python benchmarks/peer_trl.py FOLDER RESULT --reference cached|live|none [--prepare]``; started by ``throughput.py``.

trl gets its best settings for this work: no gradient checkpointing, no logging, evaluation or saving, the fused AdamW,
batches collated in the main process, the step as one micro-batch padded to its longest sequence (the only way that its
trainers pad). Imports nothing of the suite.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import load_dataset
from measure import Clock, Memory, Positions, memory_in_use
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from work import CHECKPOINT, COLUMNS, PEER_IDS, PEER_ROWS, Work, write_json

TRAINERS: dict[str, Any] = {"kto": trl.KTOTrainer, "dpo": trl.DPOTrainer, "sft": trl.SFTTrainer}
CONFIGS: dict[str, Any] = {"kto": trl.KTOConfig, "dpo": trl.DPOConfig, "sft": trl.SFTConfig}
FIRST_STEP = {"logps/chosen": "log_probs/desirable", "logps/rejected": "log_probs/undesirable"}
"""What trl calls the statistics by which the first steps of both sides are compared."""


class Ticks(TrainerCallback):
    """Ticks the clock after every step, and starts the counting after the warm-up."""

    def __init__(self, clock: Clock, positions: Positions, warmup_steps: int) -> None:
        self._clock, self._positions, self._warmup = clock, positions, warmup_steps

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """A step is done."""
        self._clock.tick()
        if self._clock.ticks == self._warmup:
            self._positions.reset()


def recording(trainer: Any) -> Any:
    """The class ``trainer`` with a record of the loss and of the gradient norm of the first step."""

    class Recording(trainer):
        first: dict[str, float]

        def training_step(self, *arguments: Any, **named: Any) -> Any:
            loss = super().training_step(*arguments, **named)
            if not hasattr(self, "first"):
                self.first = {"loss": float(loss)}
                self.first |= {name: values[0] for name, values in self._metrics["train"].items() if values}
            return loss

        def _clip_grad_norm(self, model: Any) -> Any:
            norm = super()._clip_grad_norm(model)
            if "grad_norm" not in self.first:
                self.first["grad_norm"] = float(norm)
            return norm

    return Recording


def arguments_of(work: Work, folder: Path, reference: str, *, gpu: bool) -> Any:
    """The settings of trl's trainer."""
    named: dict[str, Any] = {
        "output_dir": str(folder / "peer_output"),
        "per_device_train_batch_size": work.completions_per_step // len(COLUMNS[work.loss]),
        "gradient_accumulation_steps": 1,
        "max_steps": work.warmup_steps + work.steps,
        "train_sampling_strategy": "sequential",
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": work.precision == "bf16",
        "use_cpu": not gpu,
        "gradient_checkpointing": False,
        "max_length": None,
        "report_to": "none",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        "seed": work.seed,
    }
    if work.loss != "sft":
        named |= {"beta": 0.1, "disable_dropout": True, "precompute_ref_log_probs": reference == "cached"}
    else:
        named |= {"completion_only_loss": True, "packing": False}
    return CONFIGS[work.loss](**named)


def same_ids(dataset: Any, loss: str, expected: list[dict[str, list[int]]]) -> bool:
    """Whether trl trains on exactly the ids of the suite, row by row, prompts and completions apart."""
    for row, ids in zip(dataset, expected, strict=True):
        if loss == "sft":
            masked = [-100] * len(ids["prompt"]) + ids["completion"]
            same = row["input_ids"] == ids["prompt"] + ids["completion"] and row["labels"] == masked
        else:
            same = row["prompt_ids"] == ids["prompt"] and all(row[f"{side}_ids"] == ids[side] for side in COLUMNS[loss])
        if not same:
            return False
    return True


def lora_of(work: Work) -> Any:
    """The peft settings of the adapters; None where all weights are trained."""
    if work.lora_rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=work.lora_rank, lora_alpha=2 * work.lora_rank, target_modules="all-linear", lora_dropout=0.0)


def main() -> None:
    """Do one turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--reference", choices=["cached", "live", "none"], required=True)
    parser.add_argument("--prepare", action="store_true", help="fill the caches of tokens and reference, train nothing")
    options = parser.parse_args()
    folder, gpu = options.folder, torch.cuda.is_available()
    work = Work.load(folder)

    checkpoint = folder / CHECKPOINT
    dtype = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))["dtype"]
    before_checkpoint = memory_in_use()
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if gpu:
        model = model.to("cuda")
    memory = Memory(before_checkpoint)

    positions = Positions()
    clock = Clock(work.warmup_steps, work.steps)
    rows = load_dataset("json", data_files=str(folder / PEER_ROWS), split="train")
    positions.watch(model)
    trainer = recording(TRAINERS[work.loss])(
        model=model,
        args=arguments_of(work, folder, options.reference, gpu=gpu),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[Ticks(clock, positions, work.warmup_steps)],
        peft_config=lora_of(work),
    )
    if getattr(trainer, "ref_model", None) is not None:
        positions.watch(trainer.ref_model, reference=True)
    before = positions.counts["no gradient calls"] + positions.counts["reference calls"]
    memory.phase_ends("preparation")
    if options.prepare:
        write_json(options.result, {"reference_calls_before": before})
        return

    started = time.perf_counter()
    trainer.train()
    memory.phase_ends("training")
    total = time.perf_counter() - started
    positions.remove()
    expected = json.loads((folder / PEER_IDS).read_text(encoding="utf-8"))
    first = {FIRST_STEP.get(name, name) if work.loss == "kto" else name: value for name, value in trainer.first.items()}
    result = {
        "side": f"trl {trl.__version__}",
        "seconds": clock.seconds,
        "reference_seconds": 0.0,
        "train_seconds_with_warmup": total,
        "memory": memory.report(),
        "positions": dict(positions.counts),
        "reference_calls_before": before,
        "first_step": first,
        "ids_equal": same_ids(trainer.train_dataset, work.loss, expected),
    }
    write_json(options.result, result)


if __name__ == "__main__":
    main()
