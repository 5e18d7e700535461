"""The stages of a run: what each one depends on, and how it is built.

Every stage is described completely by its configuration, its inputs and ``VERSIONS``; two runs that describe a stage
alike share its artifact. Raise a version when the code of a stage changes its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kto_bench.code import digest_of
from kto_bench.component import identity_of
from kto_bench.config import Config
from kto_bench.evaluation_stages import EvaluationStages, step_folder
from kto_bench.evaluation_texts import evaluation_texts
from kto_bench.feedback.preparation import prepare
from kto_bench.feedback.subsampling import IDS, trained_kind, trained_part, write_ids
from kto_bench.feedback.token_lists import as_lists
from kto_bench.feedback.types import Feedback, FeedbackKind, read_rows, write_rows
from kto_bench.implied_reward_stages import ImpliedRewardStages
from kto_bench.losses import Loss
from kto_bench.losses.sft import SFT
from kto_bench.models import DIGESTS, parameters_of
from kto_bench.round_stages import RoundStages
from kto_bench.screen import Advance
from kto_bench.store import Stage
from kto_bench.training.budget import Costs
from kto_bench.training.config import TrainConfig
from kto_bench.training.examples import steps_of, tokenise_into, tokenised
from kto_bench.training.span import Span
from kto_bench.training_stage import Training
from kto_bench.watch import Metrics, Watch

VERSIONS = {
    "pretrain": 1,
    "checkpoint": 1,
    "feedback": 1,
    "subsample": 1,
    "tokens": 1,
    "sft": 2,
    "reward_model": 1,
    "sample": 1,
    "annotate": 1,
    "reference": 2,
    "mismatched_reference": 2,
    "align": 3,
    "generate": 1,
    "kl": 1,
    "judge": 1,
    "statistics": 1,
    "implied_reference": 1,
    "implied_reward": 1,
    "benchmark": 1,
}

Folders = dict[str, Path]
Build = Callable[[Path, Folders, Advance], None]


class Stages:
    """The stages of one configuration. Describing them computes nothing and loads no model."""

    def __init__(self, config: Config, watch: Watch) -> None:
        """``watch`` is not part of any fingerprint."""
        self._config, self._watch = config, watch
        self._reported = 0
        self._sources: dict[type[Loss], str] = {}

    def say(self, text: str) -> None:
        """One line on the screen."""
        self._watch.screen.say(text)

    def named(self, attribute: str) -> Stage:
        """The stage of a dotted attribute, such as ``align`` or ``rounds.2.reference``."""
        found: Any = self
        for part in attribute.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        assert isinstance(found, Stage)
        return found

    @cached_property
    def base(self) -> Stage:
        """The base checkpoint: pretrained here, or published."""
        source, seed = self._config.model, self._config.seed("initialisation")

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            source.build(folder, seed, advance)

        seeded = {"seed": seed} if source.seeded else {}
        return self.describe(source.stage, {"model": source.identity(), **seeded}, {}, build)

    @cached_property
    def feedback(self) -> Stage:
        """The feedback as rows: for training, held out (no prompt in both), and demonstrations for the SFT start.

        Of feedback on policy, those of the source whose prompts are asked.
        """
        source = self._config.feedback.given
        texts = evaluation_texts(self._config)

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            prepared = prepare(source, texts.load() if texts else {})
            write_rows(folder / "train.jsonl", prepared.train.rows)
            write_rows(folder / "heldout.jsonl", prepared.heldout.rows)
            write_rows(folder / "demonstrations.jsonl", prepared.demonstrations.rows)
            (folder / "data.json").write_text(json.dumps(prepared.summary, indent=2), encoding="utf-8")

        settings = {"feedback": source.identity(), **({"decontaminate": texts.identity()} if texts else {})}
        return self.describe("feedback", settings, {}, build)

    @cached_property
    def trained_on(self) -> Stage:
        """The feedback that losses see: all of it, or the part of its training rows that is asked for."""
        source = self._config.feedback
        if not source.alters:
            return self.feedback

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            kind = source.kind()
            kept, counts = trained_part(Feedback(kind, read_rows(inputs["feedback"] / "train.jsonl", kind)), source)
            write_rows(folder / "train.jsonl", kept.rows)
            write_ids(folder / IDS, kept, counts.get("label_noise", {}).pop("ids", []))
            (folder / "data.json").write_text(json.dumps(counts, indent=2), encoding="utf-8")

        return self.describe("subsample", source.subsampling, {"feedback": self.feedback}, build)

    @cached_property
    def tokens(self) -> Stage:
        """What losses see, as token ids."""
        loss, kind = self._config.loss, trained_kind(self._config.feedback)
        controls = None if loss is None else loss.control_tokens
        return self.tokens_of(self.trained_on, self._config.train, kind, "train.jsonl", controls)

    @cached_property
    def start(self) -> Stage:
        """The checkpoint that alignment starts from, which is also its reference."""
        train = self._config.start.train
        if train is None:
            return self.base
        rows = "demonstrations.jsonl"
        tokens = self.tokens_of(self.feedback, train, "demonstrations", rows, part="demonstrations")
        inputs = {"policy": self.base, "feedback": self.feedback, "tokens": tokens}
        return self.training("sft", "start", SFT(), train, inputs, rows)

    @cached_property
    def reference(self) -> Stage:
        """The reference's log-probabilities of all completions of the feedback: shared by every loss and seed order."""
        return self.reference_of("reference", self.start, self.tokens)

    @cached_property
    def mismatched_reference(self) -> Stage:
        """The same for the mismatched pairs of the schedule, from which the reference point is estimated."""
        return self.mismatched_reference_of("mismatched_reference", self.start, self.tokens)

    def reference_of(
        self, attribute: str, policy: Stage, tokens: Stage, part: str = "", step: int | None = None
    ) -> Stage:
        """The log-probabilities of all completions in ``tokens`` by the checkpoint that ``policy`` makes.

        With a ``step`` it is the one that ``policy`` kept after that step of its training.
        """
        train = self._config.train
        at_step = {} if step is None else {"step": step}
        settings = {**train.token_limits, "precision": train.precision, **at_step}

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.training.reference import score_reference

            data = tokenised(inputs, train)
            prompts = as_lists(data.prompts).take(data.prompt_of)
            score_reference(folder, _at(inputs["policy"], step), train, prompts, data.completions, advance)

        inputs = {"policy": policy, "tokens": tokens}
        return self.describe(
            "reference", settings, inputs, self._by_workers(attribute, train, build), train.nodes, part
        )

    def mismatched_reference_of(
        self,
        attribute: str,
        policy: Stage,
        tokens: Stage,
        part: str = "",
        step: int | None = None,
        span: Span | None = None,
    ) -> Stage:
        """As ``reference_of``, of the mismatched pairs of the schedule; of those of ``span`` alone if there is one."""
        train, seed = self._config.train, self._config.seed("data_order")
        order: dict[str, Any] = {**train.duration, "seed": seed} if span is None else {"span": span.plain}
        settings = {
            **train.token_limits,
            "precision": train.precision,
            "completions_per_step": train.completions_per_step,
            **order,
            **({} if step is None else {"step": step}),
        }

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.training.reference import score_reference

            data = tokenised(inputs, train, mismatched=True)
            costs = Costs.of(data, None, parameters_of(inputs["policy"]))
            steps = steps_of(data, "binary", train, costs, seed, mismatched=True, span=span)
            pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *(step.mismatched for step in steps)])
            prompts = as_lists(data.prompts).take(pairs[:, 0])
            completions = as_lists(data.completions).take(pairs[:, 1])
            score_reference(folder, _at(inputs["policy"], step), train, prompts, completions, advance)

        inputs = {"policy": policy, "tokens": tokens}
        by_workers = self._by_workers(attribute, train, build)
        return self.describe("mismatched_reference", settings, inputs, by_workers, train.nodes, part)

    @cached_property
    def align(self) -> Stage | None:
        """The policy trained with the loss; None where there is no loss and the start itself is evaluated."""
        loss = self._config.loss
        if loss is None:
            return None
        if self.rounds:
            return self.rounds[-1].align
        inputs = {"policy": self.start, "feedback": self.trained_on, "tokens": self.tokens}
        # A reference that is synced with the policy is scored as training goes.
        if loss.needs_reference and not loss.sync_every:
            inputs["reference"] = self.reference
            if loss.needs_kl:
                inputs["mismatched_reference"] = self.mismatched_reference
        return self.training("align", "align", loss, self._config.train, inputs, "train.jsonl", self._config.at_steps)

    @cached_property
    def rounds(self) -> Sequence[RoundStages]:
        """The rounds of an alignment with feedback on policy; none otherwise."""
        return RoundStages.of(self._config, self)

    @property
    def alignment(self) -> list[Stage]:
        """All that the alignment consists of, in the order in which it is fetched."""
        if self.align is None:
            return []
        if self.rounds:
            return [stage for one in self.rounds for stage in one.all]
        return [*self.align.inputs.values(), self.align]

    @property
    def policy(self) -> Stage:
        """The checkpoint that is evaluated."""
        return self.align or self.start

    @cached_property
    def evaluation(self) -> EvaluationStages:
        """The stages that evaluate the policy."""
        return self._evaluation(self.policy)

    @cached_property
    def over_training(self) -> list[EvaluationStages]:
        """The stages that evaluate the policy as it was at some steps of its alignment."""
        if self.align is None:
            return []
        return [self._evaluation(self._kept_by(step), step) for step in self._config.at_steps]

    def _kept_by(self, step: int) -> Stage:
        """The stage whose artifact holds the policy after ``step``."""
        if not step or self.align is None:
            return self.start
        return next((one.align for one in self.rounds if step <= one.span.last), self.align)

    @cached_property
    def implied_reward(self) -> ImpliedRewardStages:
        """The stages that read the policy as a reward model."""
        return ImpliedRewardStages(self._config, self.policy, self.start, self.feedback, self.trained_on, self.describe)

    def _evaluation(self, policy: Stage, step: int | None = None) -> EvaluationStages:
        reference = self.start if self._config.at_steps else None
        return EvaluationStages(
            self._config, policy, self.feedback, self.describe, step, reference, self._watch.screen.say
        )

    def describe(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage],
        build: Build,
        machines: int = 1,
        part: str = "",
    ) -> Stage:
        """A stage from its name, settings, inputs and ``build(folder, folders of the inputs, advance)``."""

        def shown(folder: Path, folders: Folders) -> None:
            with self._watch.screen.stage(stage.label) as advance:
                build(folder, folders, advance)

        stage = Stage(name, VERSIONS[name], settings, inputs, shown, machines, part)
        return stage

    def tokens_of(
        self,
        feedback: Stage,
        train: TrainConfig,
        kind: FeedbackKind,
        rows: str,
        controls: tuple[str, str] | None = None,
        part: str = "",
    ) -> Stage:
        """The feedback's file ``rows``, which holds ``kind``, as ids of the base's tokenizer: every policy's."""
        settings = {**train.token_limits, "rows": rows, **({} if controls is None else {"controls": list(controls)})}

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            for line in tokenise_into(folder, inputs, train, kind, rows, controls, advance):
                self._watch.screen.say(line)

        return self.describe("tokens", settings, {"tokenizer": self.base, "feedback": feedback}, build, part=part)

    def training(
        self,
        name: str,
        attribute: str,
        loss: Loss,
        train: TrainConfig,
        inputs: Mapping[str, Stage],
        rows: str,
        at_steps: Sequence[int] = (),
        span: Span | None = None,
        part: str = "",
    ) -> Stage:
        """Train the policy of ``inputs`` with ``loss`` on the tokens of the feedback's file ``rows``.

        The policies after ``at_steps`` are kept in the artifact, too. With a ``span`` it is that part of a training.
        """
        keep = [step for step in at_steps if step]
        order, initialisation = self._config.seed("data_order"), self._config.seed("initialisation")
        settings = {
            # Losses are what users edit: the code of each counts, wherever it is.
            "loss": {**identity_of(loss), "source": self._source_of(type(loss))},
            "train": train.identity(),
            "seed": order if order == initialisation else {"data_order": order, "initialisation": initialisation},
            **({"keep": keep} if keep else {}),
            **({"span": span.plain} if span else {}),
        }
        on_metrics = self._report if name == "align" else lambda metrics, timing: None
        build = Training(loss, train, rows, keep, order, initialisation, on_metrics, self._watch, span)
        return self.describe(name, settings, inputs, self._by_workers(attribute, train, build), train.nodes, part)

    def _source_of(self, loss: type[Loss]) -> str:
        """The digest of a loss's code, read once: a run may have many rounds."""
        if loss not in self._sources:
            self._sources[loss] = digest_of(loss, _is_a_loss)
        return self._sources[loss]

    def _report(self, metrics: Metrics, timing: Metrics) -> None:
        """Pass on each step's metrics once: a training that goes on tells of the steps before it, too."""
        if metrics["step"] > self._reported:
            self._reported = int(metrics["step"])
            self._watch.on_metrics(metrics, timing)

    def _by_workers(self, attribute: str, train: TrainConfig, build: Build) -> Build:
        """``build`` in worker processes, each of which finds the stage as ``attribute`` of its own Stages."""

        def shared(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.training.processes import in_a_group
            from kto_bench.training.workers import Job, run_workers

            if train.processes == 1 or in_a_group():
                build(folder, inputs, advance)
                return
            hear: dict[str, Callable[[Any], None]] = {
                "advance": lambda value: advance(*value),
                "metrics": lambda value: self._report(*value),
                "say": self._watch.screen.say,
            }
            fingerprint = self.named(attribute).fingerprint
            job = Job(
                config=self._config.plain,
                stage=attribute,
                fingerprint=fingerprint,
                folder=folder,
                inputs=inputs,
                processes_per_node=train.processes_per_node,
                nodes=train.nodes,
                digests=DIGESTS,
            )
            run_workers(job, lambda kind, value: hear[kind](value), self._watch.preemption)

        return shared


def _is_a_loss(cls: type) -> bool:
    return issubclass(cls, Loss) and cls is not Loss


def _at(artifact: Path, step: int | None) -> Path:
    """The checkpoint that a training has kept after ``step``, or the one at its end."""
    return artifact if step is None else artifact / step_folder(step)
