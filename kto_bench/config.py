"""The resolved configuration of one run: typed, checked as a whole, and turned into components.

Everything that can be refused is refused here, before any compute: unknown fields, wrong types, impossible
combinations, empty data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue
from pydantic import Field, field_validator

from kto_bench.component import Component, ConfigError, build, validate
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.generation.generate import Generation
from kto_bench.evaluation.generation.prompts import PromptSource, Split
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.question_sets.question_set import QuestionSet
from kto_bench.feedback.conversions import can_serve
from kto_bench.feedback.subsampling import trained_kind
from kto_bench.feedback.types import FeedbackSource
from kto_bench.losses import Loss
from kto_bench.models import ModelSource
from kto_bench.record import LOSS_REPORT
from kto_bench.training.config import Budget, TrainConfig
from kto_bench.tuning.spaces import Space, Tune

IMPLIED_REWARD_ROWS = 512
"""Labelled rows of each split of which ``evaluation.implied_reward: true`` records the implied reward."""


class StartConfig(Component):
    """The checkpoint that alignment starts from. ``train`` is how SFT is done; None means no SFT (SFT-skip)."""

    name: str
    train: TrainConfig | None = None


class TrackingConfig(Component):
    """Whether and where W&B mirrors the run. The files under ``results/`` are the record in any case."""

    mode: Literal["offline", "online", "none"] = "offline"
    project: str = "kto_bench"
    entity: str | None = None
    folder: Path = Path("artifacts/wandb")


class EvaluationConfig(Component):
    """What each checkpoint is asked and how the answers are scored. Any part may be null."""

    name: str
    prompts: Any = None
    generation: Generation = Generation()
    judge: Any = None
    benchmarks: Benchmarks | None = None
    data_root: Path | None = Field(None, description="folder with the benchmarks' data sets, instead of the hub")
    allow_code_execution: bool = Field(False, description="whether benchmarks may run programs that the model wrote")
    split: Split = Field("all", description="of the prompts: all; or one of two parts that share none, if tuned")
    implied_reward: int | None = Field(
        None,
        ge=2,
        description="labelled rows, held out and trained on each, of which the implied reward is recorded; true: 512",
    )
    at_steps: tuple[int, ...] = Field(
        (), description="updates of the alignment after which its policy is evaluated too; 0 is the start"
    )

    @field_validator("data_root")
    @classmethod
    def _is_a_folder(cls, root: Path | None) -> Path | None:
        if root is not None and not root.is_dir():
            raise ValueError("there is no such folder; give one that is laid out as docs/benchmarks.md says")
        return root

    @field_validator("at_steps")
    @classmethod
    def _steps(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if any(step < 0 for step in steps) or len(set(steps)) < len(steps):
            raise ValueError("choose distinct numbers of updates, 0 or more, such as [0, 50, 100]")
        return tuple(sorted(steps))

    @field_validator("implied_reward", mode="before")
    @classmethod
    def _rows(cls, rows: Any) -> Any:
        return {True: IMPLIED_REWARD_ROWS, False: None}[rows] if isinstance(rows, bool) else rows

    @field_validator("prompts")
    @classmethod
    def _prompts(cls, node: Any) -> PromptSource | None:
        return None if node is None else build(node, PromptSource, "evaluation.prompts")

    @field_validator("judge")
    @classmethod
    def _judge(cls, node: Any) -> Judge | None:
        chosen = isinstance(node, Mapping) and node.get("_target_") is not None
        return build(node, Judge, "evaluation.judge") if chosen else None


class SeedsConfig(Component):
    """Seeds of single axes; an axis without one has the run's. What hangs on which is told in ``kto_bench.seeds``."""

    initialisation: int | None = Field(None, ge=0)
    data_order: int | None = Field(None, ge=0)
    sampling: int | None = Field(None, ge=0)


class RunSettings(Component):
    """What is not in a group: seeds, where things go, and what a sweep does with its cells."""

    seed: int = Field(ge=0, description="one number; every random stream is derived from it by name")
    seeds: SeedsConfig = SeedsConfig()
    sweep: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="folder under results/, group in W&B")
    artifacts: Path
    results: Path
    retry: Literal["none", "failed"] = Field(
        "none", description="'failed' runs what failed once more when a sweep is relaunched"
    )
    refused: Literal["stop", "skip"] = Field(
        "stop", description="'skip' records the cells that cannot be run as skipped, with why, and runs the others"
    )
    timeout_minutes: float | None = Field(
        None, gt=0, description="a cell of a multirun that takes longer is killed and recorded as failed"
    )

    budget: Budget | None = Field(
        None, description="what all losses get alike, instead of train.epochs and train.steps"
    )
    tune: Tune | None = Field(None, description="how a multirun is tuned; a single run is not changed by it")
    space: dict[str, Space] = Field({}, description="what may be tuned of the loss; comes with it")
    role: Literal["trial", "final"] | None = Field(None, description="of a cell in a tuned multirun; set by it")
    trial: int | None = Field(None, ge=0, description="the number of the trial, or of the one that won; set likewise")

    @field_validator("sweep")
    @classmethod
    def _not_a_report(cls, name: str) -> str:
        if name == LOSS_REPORT:
            raise ValueError(f"kto-bench-report {name} is the report of the losses; choose another name")
        return name


Axis = Literal["initialisation", "data_order", "sampling"]
GROUPS = ("model", "feedback", "start", "loss", "train", "evaluation", "tracking")


@dataclass(frozen=True)
class Config:
    """One run, resolved. ``plain`` is the same as JSON values, for the record."""

    model: ModelSource
    feedback: FeedbackSource
    start: StartConfig
    loss: Loss | None
    loss_name: str
    train: TrainConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    run: RunSettings
    plain: dict[str, Any]

    @property
    def labels(self) -> dict[str, Any]:
        """What figures and tables group by."""
        return {
            "loss": self.loss_name,
            "start": self.start.name,
            "model": self.model.name,
            "feedback": self.feedback.name,
            "seed": self.run.seed,
            **({"role": self.run.role, "trial": self.run.trial} if self.run.role else {}),
        }

    @property
    def at_steps(self) -> tuple[int, ...]:
        """The updates of the alignment after which its policy is evaluated, besides that at its end; none without."""
        last = self.train.fixed_steps
        return () if self.loss is None else tuple(step for step in self.evaluation.at_steps if step != last)

    @property
    def trainings(self) -> dict[str, TrainConfig]:
        """How each training of the run is done, by field."""
        trainings = {"train": None if self.loss is None else self.train, "start.train": self.start.train}
        return {field: train for field, train in trainings.items() if train is not None}

    @property
    def processes(self) -> dict[str, int]:
        """The processes of each training on every machine, by field."""
        return {f"{field}.processes_per_node": train.processes_per_node for field, train in self.trainings.items()}

    def seed(self, axis: Axis) -> int:
        """The seed of one axis."""
        own: int | None = getattr(self.run.seeds, axis)
        return self.run.seed if own is None else own


def resolve(node: DictConfig | Mapping[str, Any]) -> Config:
    """Build and check a run's configuration. Raises ConfigError; FeedbackError when the feedback cannot be read."""
    plain = _plain(node) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(plain, dict)
    values: dict[str, Any] = {str(key): value for key, value in plain.items()}
    for group in GROUPS:
        if not isinstance(values.get(group), Mapping):
            raise ConfigError(f"{group}: {values.get(group)!r} is not allowed: choose one with {group}=NAME")
    run = validate(RunSettings, {key: value for key, value in values.items() if key not in GROUPS}, "")
    loss_node = dict(values["loss"])
    loss_name = str(loss_node.pop("name", ""))
    train = validate(TrainConfig, values["train"], "train")  # before start, whose settings follow it
    config = Config(
        model=build(values["model"], ModelSource, "model"),
        feedback=build(values["feedback"], FeedbackSource, "feedback"),
        start=validate(StartConfig, values["start"], "start"),
        loss=None if loss_node.get("_target_") is None else build(loss_node, Loss, "loss"),
        loss_name=loss_name,
        train=train,
        evaluation=validate(EvaluationConfig, values["evaluation"], "evaluation"),
        tracking=validate(TrackingConfig, values["tracking"], "tracking"),
        run=run,
        plain=values,
    )
    _check(config)
    return config


def _plain(node: DictConfig) -> Any:
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: required; give it as {error.full_key}=VALUE") from error
    except InterpolationResolutionError as error:
        raise ConfigError(f"{error.full_key}: {error.msg}") from error


def _check(config: Config) -> None:
    """Refuse combinations that cannot be run."""
    loss, train = config.loss, config.train
    _check_trainings(config.model, config.trainings)
    if config.start.train is not None and config.start.train.nodes != train.nodes:
        raise ConfigError(
            f"start.train.nodes: {config.start.train.nodes} is not train.nodes, which is {train.nodes}: one command "
            "per machine does the whole run; choose the same number for both"
        )
    available = config.feedback.kind()
    if config.feedback.alters and available == "demonstrations":
        raise ConfigError(
            "feedback.keep_desirable, keep_undesirable, one_completion_per_prompt, label_noise: demonstrations have no "
            "undesirable side; leave these fields alone, or choose feedback that is paired or binary"
        )
    if loss is not None:
        if config.feedback.subsamples and not can_serve(trained_kind(config.feedback), loss.feedback):
            raise ConfigError(
                f"feedback.keep_desirable, keep_undesirable, one_completion_per_prompt: {config.feedback.subsampling} "
                f"takes pairs apart, and {config.loss_name!r} needs {loss.feedback} feedback; choose a loss for binary "
                "feedback, or leave these fields at 1, 1 and false"
            )
        if not can_serve(available, loss.feedback):
            raise ConfigError(
                f"loss: {config.loss_name!r} needs {loss.feedback} feedback, and feedback={config.feedback.name} is "
                f"{available}; choose a loss for {available} feedback, or a feedback source that is {loss.feedback}"
            )
        if loss.feedback == "paired" and train.completions_per_step % 2:
            raise ConfigError(
                f"train.completions_per_step: {train.completions_per_step} is odd, and {config.loss_name} sees pairs "
                f"of completions; choose an even number such as {train.completions_per_step + 1}"
            )
        if (loss.has_reference_point or loss.control_tokens) and loss.feedback != "binary":
            raise ConfigError(
                f"loss: {config.loss_name!r} declares needs_kl, tracked or control_tokens, which are for single "
                "completions with a label; declare feedback = 'binary' as well"
            )
        if loss.sync_every and not loss.needs_reference:
            raise ConfigError(
                f"loss: {config.loss_name!r} declares sync_every but no reference to sync; declare needs_reference"
            )
        if loss.control_tokens and train.lora is not None:
            raise ConfigError(
                f"train.lora: {config.loss_name!r} adds control tokens, whose embeddings are frozen beneath adapters; "
                "choose train.lora=null, or another loss"
            )
        if loss.needs_kl and train.completions_per_step < 2:
            raise ConfigError(
                f"train.completions_per_step: {train.completions_per_step} is too small: the reference point of "
                f"{config.loss_name} is estimated from at least 2 completions of different prompts"
            )
        config.feedback.check_alignment(train, loss)
    config.feedback.given.check()
    _check_role(config)
    prompts = config.evaluation.prompts
    if prompts is not None and prompts.uses_heldout and not config.feedback.holds_out:
        raise ConfigError(
            "feedback.heldout_fraction: 0.0 leaves no held-out prompts for evaluation.prompts; choose a share, say 0.1"
        )
    if config.evaluation.implied_reward is not None and available == "demonstrations":
        raise ConfigError(
            f"evaluation.implied_reward: {config.evaluation.implied_reward} is not allowed: demonstrations have no "
            "label that a reward could be compared with; choose null, or feedback that is paired or binary"
        )
    if config.evaluation.judge is not None and prompts is None:
        raise ConfigError("evaluation.judge: needs completions to judge; give evaluation.prompts, or set it to null")
    if config.evaluation.judge is not None:
        config.evaluation.judge.check()
    if config.evaluation.judge is not None and isinstance(prompts, QuestionSet):
        prompts.check_judge(config.evaluation.judge)
    if config.evaluation.benchmarks is not None:
        config.evaluation.benchmarks.check(config.evaluation.data_root, config.evaluation.allow_code_execution)
    check_at_steps(config.evaluation.at_steps, None if loss is None else train.fixed_steps)


def check_at_steps(at_steps: Sequence[int], steps: int | None) -> None:
    """Refuse to evaluate after more updates than the alignment has; ``steps`` None: not known yet, or no alignment."""
    late = [step for step in at_steps if steps is not None and step > steps]
    if late:
        raise ConfigError(
            f"evaluation.at_steps: {late} is beyond the end of the alignment, which has {steps} updates; choose among "
            f"0 to {steps}"
        )


def _check_role(config: Config) -> None:
    """Refuse a trial that would see what the winners are tested on, and winners that are tested on what chose them."""
    role, evaluation = config.run.role, config.evaluation
    wanted = {"trial": "validation", "final": "test", None: evaluation.split}[role]
    if evaluation.split != wanted:
        raise ConfigError(
            f"evaluation.split: {evaluation.split!r} is not allowed for role={role}: choose {wanted!r}, so that "
            "settings are chosen on other prompts than they are tested on"
        )
    if role == "trial" and evaluation.benchmarks is not None:
        raise ConfigError("evaluation.benchmarks: a trial must not see a test; choose null for role=trial")
    if role is not None and evaluation.judge is None:
        raise ConfigError(
            "evaluation.judge: tuning chooses settings by what a judge says of completions; give evaluation.prompts "
            "and evaluation.judge"
        )


def _check_trainings(model: ModelSource, trainings: Mapping[str, TrainConfig]) -> None:
    """Refuse trainings, called by their fields, that the model cannot do."""
    whole = [field for field, train in trainings.items() if train.lora is None]
    if (whole and not model.trainable) or (trainings and not model.adaptable):
        lora = " and ".join(f"{field}.lora" for field in whole or trainings)
        raise ConfigError(
            "model.dtype: training needs float32 weights, since smaller ones round small updates away; choose "
            "model.dtype=float32, with train.precision=bf16 to compute in bf16; or model.dtype=bfloat16 with adapters "
            f"in every training, by {lora}"
        )
    for field, train in trainings.items():
        if train.sharding == "full" and train.processes == 1:
            raise ConfigError(
                f"{field}.sharding: 'full' shares the model among processes, and there is one; set "
                f"{field}.processes_per_node to the number of GPUs, or choose {field}.sharding=none"
            )
