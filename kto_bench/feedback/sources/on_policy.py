"""Feedback on completions that the policy itself writes, in rounds of generating, annotating and aligning."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.generation.generate import Generation
from kto_bench.feedback.annotator import Annotator, FittedAnnotator
from kto_bench.feedback.conversions import can_serve
from kto_bench.feedback.types import Feedback, FeedbackKind, FeedbackSource

if TYPE_CHECKING:
    from kto_bench.losses import Loss
    from kto_bench.training.config import TrainConfig

Rounds = int | Literal["online"]


class OnPolicyFeedback(FeedbackSource):
    """What ``annotator`` says of the policy's own completions of the prompts of ``source``.

    The updates of the alignment are dealt to ``rounds`` as evenly as can be. Before those of a round, the policy as it
    is then completes as many prompts as the round's updates use. So one round is offline feedback (all of it from the
    start), some are semi-online, and ``online`` is a round for each update. Prompts, their order, the number of
    completions, updates and learning rates are the same for any number of rounds: only the freshness differs.
    """

    name: str = "on_policy"
    kind_of_feedback: Literal["paired", "binary"] = "paired"
    source: Any = Field(description="whose training prompts are asked; demonstrations and held-out rows are its own")
    annotator: Any = Field(description="who says what it thinks of the completions")
    rounds: Rounds = Field(1, description="1: offline; more: semi-online; online: one for each update")
    staleness: int = Field(0, ge=0, description="rounds that the policy that is asked lies behind the newest one")
    reference: Literal["start", "previous"] = Field(
        "start", description="the reference of each round: the start, or the policy that the round begins with"
    )
    samples_per_prompt: int = Field(
        2, ge=1, description="completions of each prompt; of paired feedback an even number"
    )
    generation: Generation = Generation(temperature=1.0, top_p=1.0)

    @field_validator("source")
    @classmethod
    def _source(cls, node: Any) -> FeedbackSource:
        source = node if isinstance(node, FeedbackSource) else build(node, FeedbackSource, "feedback.source")
        if isinstance(source, OnPolicyFeedback):
            raise ConfigError(
                "feedback.source: on_policy cannot be its own source; choose one with feedback@feedback.source=NAME"
            )
        if source.alters:
            raise ConfigError(
                "feedback.source: keep_desirable, keep_undesirable, one_completion_per_prompt and label_noise change "
                "labels, and only the prompts of the source are trained on; leave them alone"
            )
        return source

    @field_validator("annotator")
    @classmethod
    def _annotator(cls, node: Any) -> Annotator:
        return node if isinstance(node, Annotator) else build(node, Annotator, "feedback.annotator")

    @field_validator("rounds")
    @classmethod
    def _some_rounds(cls, rounds: Rounds) -> Rounds:
        if rounds != "online" and rounds < 1:
            raise ValueError("choose 1 (offline) or more, or online")
        return rounds

    @model_validator(mode="after")
    def _fits(self) -> OnPolicyFeedback:
        if self.alters or self.heldout_fraction or self.decontaminate is not None:
            raise ValueError(
                "heldout_fraction and decontaminate are said of the source, as feedback.source.heldout_fraction and so "
                "on; keep_desirable, keep_undesirable, one_completion_per_prompt and label_noise are not possible on "
                "policy: leave them alone, or choose an annotator that is noisy"
            )
        if self.kind_of_feedback == "paired" and self.samples_per_prompt % 2:
            raise ValueError(
                f"samples_per_prompt: {self.samples_per_prompt} cannot be paired; choose an even number, or "
                "kind_of_feedback=binary"
            )
        return self

    @property
    def given(self) -> FeedbackSource:
        """``source``."""
        source: FeedbackSource = self.source
        return source

    @property
    def holds_out(self) -> bool:
        """Whether ``source`` does."""
        return self.given.holds_out

    def kind(self) -> FeedbackKind:
        """``kind_of_feedback``."""
        return self.kind_of_feedback

    def load(self) -> Feedback:
        """There are no rows before there is a policy."""
        raise TypeError("feedback on policy is collected in rounds; load its source instead")

    def spans(self, updates: int) -> list[tuple[int, int]]:
        """The updates of each round, as (the number before the first, the last)."""
        rounds = updates if self.rounds == "online" else self.rounds
        ends = [updates * number // rounds for number in range(rounds + 1)]
        return list(pairwise(ends))

    def prompts_per_update(self, train: TrainConfig) -> int:
        """How many prompts one update is about."""
        return train.completions_per_step // self.samples_per_prompt

    def check_alignment(self, train: TrainConfig, loss: Loss) -> None:
        """Refuse what is known not to work."""
        updates, per_step = train.fixed_steps, train.completions_per_step
        if updates is None:
            how = f"train.budget.{train.budget.unit}" if train.budget else "train.epochs"
            raise ConfigError(
                f"{how}: feedback on policy is dealt to a fixed number of updates, and here it would depend on what "
                "the policy will write; set train.steps=N, or budget={updates: N} or {completions: N}"
            )
        if self.rounds != "online" and self.rounds > updates:
            raise ConfigError(
                f"feedback.rounds: {self.rounds} is more than the {updates} updates of the alignment; choose at most "
                "as many, or online, which is one for each"
            )
        if per_step % self.samples_per_prompt:
            raise ConfigError(
                f"train.completions_per_step: {per_step} is no multiple of feedback.samples_per_prompt "
                f"({self.samples_per_prompt}), so an update could not see all completions of a prompt; choose one, "
                f"such as {-(-per_step // self.samples_per_prompt) * self.samples_per_prompt}"
            )
        if loss.needs_kl and self.prompts_per_update(train) < 2:
            raise ConfigError(
                f"train.completions_per_step: {per_step} holds one prompt with feedback.samples_per_prompt="
                f"{self.samples_per_prompt}, and the loss's reference point needs completions of different prompts; "
                f"choose {2 * self.samples_per_prompt} or more"
            )
        if loss.sync_every and self.reference == "previous":
            raise ConfigError(
                "feedback.reference: 'previous' cannot be, since the loss syncs its reference by itself; choose start"
            )
        if isinstance(self.annotator, FittedAnnotator) and not can_serve(self.given.kind(), self.annotator.learns_from):
            raise ConfigError(
                f"feedback.annotator: {self.annotator.name!r} learns from {self.annotator.learns_from} feedback, and "
                f"feedback.source={self.given.name} is {self.given.kind()}; choose another source or annotator"
            )
        self.annotator.check()
