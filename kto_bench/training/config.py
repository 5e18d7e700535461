"""How a policy is trained: the settings that all losses share, and those of pretraining."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RESOURCES = (
    "max_tokens_per_microbatch",
    "micro_batch_size",
    "max_logits",
    "padding_free",
    "gradient_checkpointing",
    "compile",
    "processes_per_node",
    "nodes",
    "sharding",
    "save_minutes",
)
"""Fields of ``TrainConfig`` that change memory, speed and safety, never the numbers; they are in no fingerprint."""


class LoraSettings(BaseModel):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): the weights stay frozen, the adapters are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="the adapters' update is scaled by alpha / rank")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="names of the layers that get an adapter; all-linear leaves out the output head"
    )


class Budget(BaseModel):
    """What every loss of a sweep may use, in exactly one unit; see ``kto_bench.training.budget`` for what counts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    completions: int | None = Field(None, ge=1, description="completions that are trained on; a pair counts as two")
    updates: int | None = Field(None, ge=1, description="optimiser steps")
    tokens: int | None = Field(None, ge=1, description="tokens of prompts and completions that are trained on")
    flops: float | None = Field(None, gt=0, description="floating-point operations, those of the reference included")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} given; give exactly one of {', '.join(type(self).model_fields)}"
            )
        return self

    @property
    def unit(self) -> str:
        """The one field that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def amount(self) -> float:
        """How much of it."""
        amount: float = getattr(self, self.unit)
        return amount

    def steps(self, completions_per_step: int) -> int | None:
        """The number of steps that it pays for; None where that depends on the data and the loss."""
        return self.updates if self.completions is None else self.completions // completions_per_step


class TrainConfig(BaseModel):
    """Optimiser, schedule, batch, budget, precision, token limits and resources of one training stage."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    completions_per_step: int = Field(
        64, ge=1, description="completions in the global batch of one optimiser step; a pair counts as two"
    )
    lora: LoraSettings | None = Field(None, description="train low-rank adapters, which are merged on save")
    epochs: float | None = Field(
        None, gt=0, description="passes over the feedback; 1 where `steps` is not given either"
    )
    steps: int | None = Field(None, ge=1, description="exact number of optimiser steps, repeating the data if needed")
    budget: Budget | None = Field(None, description="instead of both; the alignment's comes from the sweep's `budget`")
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    learning_rate: float = Field(5e-7, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_fraction: float = Field(0.1, ge=0, le=1, description="share of the steps with a linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    max_prompt_tokens: int = Field(1024, ge=1, description="longer prompts keep their end")
    max_completion_tokens: int = Field(1024, ge=1, description="longer completions keep their start")

    # Resources: memory, speed and safety only. None of them changes a number beyond rounding (tests/training).
    max_tokens_per_microbatch: int = Field(
        16_384, ge=1, description="tokens per forward and backward pass; a longer sequence gets a pass of its own"
    )
    micro_batch_size: int | None = Field(None, ge=1, description="completions per pass, where tokens are no limit")
    max_logits: int = Field(
        16_777_216, ge=1, description="logits in memory at a time: positions times vocabulary; more are recomputed"
    )
    padding_free: bool | None = Field(
        None, description="sequences end to end with no padding; null: wherever the device and the model can"
    )
    gradient_checkpointing: bool = False
    compile: bool = Field(False, description="compile the model's layers with torch.compile")
    processes_per_node: int = Field(1, ge=1, description="worker processes, one per GPU, which the run starts itself")
    nodes: int = Field(1, ge=1, description="machines; the same command is started on each of them")
    sharding: Literal["none", "full"] = Field(
        "none", description="none: every process holds the model (DDP); full: weights and states are sharded (FSDP2)"
    )
    save_minutes: float = Field(15.0, gt=0, description="time between saves from which a killed run goes on")

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs ({self.epochs:g}) and steps ({self.steps}) are both given; set one of them to null"
            )
        if self.budget is None:
            return self
        for field in ("epochs", "steps"):
            if getattr(self, field) is not None:
                raise ValueError(
                    f"{field} ({getattr(self, field):g}) and budget.{self.budget.unit} ({self.budget.amount:g}) both "
                    f"say how long to train; set {field} to null, or leave the budget out"
                )
        if self.budget.steps(self.completions_per_step) == 0:
            raise ValueError(
                f"budget.completions ({self.budget.amount:g}) does not pay for one step of completions_per_step "
                f"({self.completions_per_step}); raise the budget, or lower completions_per_step"
            )
        return self

    @model_validator(mode="after")
    def _one_of_compile_and_recompute(self) -> TrainConfig:
        if self.compile and self.gradient_checkpointing:
            raise ValueError(
                "compile and gradient_checkpointing are both true, and layers that are recomputed are silently not "
                "compiled; set one of them to false"
            )
        return self

    @property
    def processes(self) -> int:
        """Worker processes on all machines."""
        return self.processes_per_node * self.nodes

    @property
    def fixed_steps(self) -> int | None:
        """The number of optimiser steps, where it does not depend on the data."""
        return self.budget.steps(self.completions_per_step) if self.budget else self.steps

    @property
    def duration(self) -> dict[str, object]:
        """What says how long to train: ``steps``, or else ``budget`` or ``epochs``."""
        if self.fixed_steps is not None:
            return {"steps": self.fixed_steps}
        return {"budget": {self.budget.unit: self.budget.amount}} if self.budget else {"epochs": self.epochs or 1.0}

    @property
    def token_limits(self) -> dict[str, int]:
        """What an ``Encoder`` needs besides its tokenizer."""
        return {"max_prompt_tokens": self.max_prompt_tokens, "max_completion_tokens": self.max_completion_tokens}

    def identity(self) -> dict[str, object]:
        """What changes the trained weights: everything but resources, and settings that are not used."""
        unused = {*RESOURCES, "epochs", "steps", "budget"}
        if self.lora is None:
            unused |= {"lora"}
        if self.optimizer != "adamw":
            unused |= {"adam_beta1", "adam_beta2"}
        return {**self.model_dump(mode="json", exclude=unused), **self.duration}


class PretrainConfig(BaseModel):
    """How a model is trained from scratch: next-token prediction, AdamW, cosine schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tokens: int = Field(gt=0)
    sequence_tokens: int = Field(64, ge=2)
    sequences_per_step: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    warmup_fraction: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast; weights and optimiser stay in fp32")

    def identity(self) -> dict[str, object]:
        """What changes the trained weights. fp32 goes without saying, as in models from before there was a choice."""
        return self.model_dump(mode="json", exclude={"precision"} if self.precision == "fp32" else None)

    def within(self, most_tokens: int | None) -> PretrainConfig:
        """The same for at most so many tokens, but a step at least."""
        fewer = self.tokens if most_tokens is None else min(self.tokens, max(1, most_tokens))
        return self.model_copy(update={"tokens": fewer})

    @property
    def tokens_per_step(self) -> int:
        """Tokens in the batch of one optimiser step."""
        return self.sequences_per_step * self.sequence_tokens

    @property
    def steps(self) -> int:
        """Number of optimiser steps, at least one."""
        return max(1, self.tokens // self.tokens_per_step)

    @property
    def whole_tokens(self) -> int:
        """``tokens`` rounded down to whole steps."""
        return self.steps * self.tokens_per_step
