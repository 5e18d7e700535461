"""How a policy is trained: the settings that all losses share, and those of pretraining."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Optimiser, schedule, batch, budget, precision and token limits of one training stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    completions_per_step: int = Field(
        64, ge=1, description="completions in the global batch of one optimiser step; a pair counts as two"
    )
    micro_batch_size: int = Field(
        64, ge=1, description="completions per forward and backward pass; changes memory and speed, never the numbers"
    )
    epochs: float | None = Field(
        None, gt=0, description="passes over the feedback; 1 where `steps` is not given either"
    )
    steps: int | None = Field(None, ge=1, description="exact number of optimiser steps, repeating the data if needed")
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    learning_rate: float = Field(5e-7, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_fraction: float = Field(0.1, ge=0, le=1, description="share of the steps with a linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    max_prompt_tokens: int = Field(1024, ge=1, description="longer prompts keep their end")
    max_completion_tokens: int = Field(1024, ge=1, description="longer completions keep their start")

    @model_validator(mode="after")
    def _one_budget(self) -> TrainConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"epochs ({self.epochs:g}) and steps ({self.steps}) are both given; set one of them to null"
            )
        return self

    @property
    def budget(self) -> dict[str, float | int]:
        """The one of ``epochs`` and ``steps`` that counts."""
        return {"epochs": self.epochs or 1.0} if self.steps is None else {"steps": self.steps}

    def identity(self) -> dict[str, object]:
        """What changes the trained weights: everything but how a step is split, and settings that are not used."""
        unused = {"micro_batch_size", "gradient_checkpointing", "epochs", "steps"}
        if self.optimizer != "adamw":
            unused |= {"adam_beta1", "adam_beta2"}
        return {**self.model_dump(mode="json", exclude=unused), **self.budget}


class PretrainConfig(BaseModel):
    """How a model is trained from scratch: next-token prediction, AdamW, cosine schedule."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = Field(gt=0)
    sequence_tokens: int = Field(64, ge=2)
    sequences_per_step: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    warmup_fraction: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)

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
