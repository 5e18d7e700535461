"""The stages of a run: what each one depends on, and how it is built.

Every stage is described completely by its configuration, its inputs and ``VERSIONS``; two runs that describe a stage
alike share its artifact. Raise a version when the code of a stage changes its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from kto_bench.code import digest_of
from kto_bench.component import identity_of
from kto_bench.config import Config, check_at_steps
from kto_bench.evaluation_stages import EvaluationStages
from kto_bench.evaluation_texts import evaluation_texts
from kto_bench.feedback.preparation import prepare
from kto_bench.feedback.subsampling import IDS, trained_kind, trained_part, write_ids
from kto_bench.feedback.token_lists import Tokens, as_lists
from kto_bench.feedback.types import Feedback, FeedbackKind, read_rows, write_rows
from kto_bench.implied_reward_stages import ImpliedRewardStages
from kto_bench.lines import read_lines
from kto_bench.losses import Loss
from kto_bench.losses.sft import SFT
from kto_bench.models import DIGESTS, load_policy, load_tokenizer, pad_id_of, parameters_of
from kto_bench.preemption import Preemption
from kto_bench.screen import Advance, Remote, Screen
from kto_bench.seeds import derive
from kto_bench.store import Stage, saved_beside
from kto_bench.training.budget import Costs
from kto_bench.training.config import TrainConfig
from kto_bench.training.examples import class_counts, steps_of, tokenise_into, tokenised

VERSIONS = {
    "pretrain": 1,
    "checkpoint": 1,
    "feedback": 1,
    "subsample": 1,
    "tokens": 1,
    "sft": 2,
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

STAGES_OF = {"sft": "start", "align": "align"}
"""The attribute of ``Stages`` under which a training stage is found."""

Folders = dict[str, Path]
Metrics = Mapping[str, float]
Build = Callable[[Path, Folders, Advance], None]


@dataclass(frozen=True)
class Watch:
    """Who looks on while stages are built: the screen, and whoever wants the alignment's metrics as they happen."""

    screen: Screen | Remote
    on_metrics: Callable[[Metrics, Metrics], None]
    preemption: Preemption


class Stages:
    """The stages of one configuration. Describing them computes nothing and loads no model."""

    def __init__(self, config: Config, watch: Watch) -> None:
        """``watch`` is not part of any fingerprint."""
        self._config, self._watch = config, watch

    @cached_property
    def base(self) -> Stage:
        """The base checkpoint: pretrained here, or published."""
        source, seed = self._config.model, self._config.seed("initialisation")

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            source.build(folder, seed, advance)

        seeded = {"seed": seed} if source.seeded else {}
        return self._stage(source.stage, {"model": source.identity(), **seeded}, {}, build)

    @cached_property
    def feedback(self) -> Stage:
        """The feedback as rows: for training, held out (no prompt in both), and demonstrations for the SFT start."""
        source = self._config.feedback
        texts = evaluation_texts(self._config)

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            prepared = prepare(source, texts.load() if texts else {})
            write_rows(folder / "train.jsonl", prepared.train.rows)
            write_rows(folder / "heldout.jsonl", prepared.heldout.rows)
            write_rows(folder / "demonstrations.jsonl", prepared.demonstrations.rows)
            (folder / "data.json").write_text(json.dumps(prepared.summary, indent=2), encoding="utf-8")

        settings = {"feedback": source.identity(), **({"decontaminate": texts.identity()} if texts else {})}
        return self._stage("feedback", settings, {}, build)

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

        return self._stage("subsample", source.subsampling, {"feedback": self.feedback}, build)

    @cached_property
    def tokens(self) -> Stage:
        """What losses see, as token ids."""
        loss, kind = self._config.loss, trained_kind(self._config.feedback)
        controls = None if loss is None else loss.control_tokens
        return self._tokens(self.trained_on, self._config.train, kind, "train.jsonl", controls)

    @cached_property
    def start(self) -> Stage:
        """The checkpoint that alignment starts from, which is also its reference."""
        train = self._config.start.train
        if train is None:
            return self.base
        rows = "demonstrations.jsonl"
        tokens = self._tokens(self.feedback, train, "demonstrations", rows, part="demonstrations")
        inputs = {"policy": self.base, "feedback": self.feedback, "tokens": tokens}
        return self._training("sft", SFT(), train, inputs, rows)

    @cached_property
    def reference(self) -> Stage:
        """The reference's log-probabilities of all completions of the feedback: shared by every loss and seed order."""
        train = self._config.train
        settings = {**train.token_limits, "precision": train.precision}

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            data = tokenised(inputs, train)
            prompts = as_lists(data.prompts).take(data.prompt_of)
            self._save_reference(folder, inputs["policy"], prompts, data.completions, advance)

        inputs = {"policy": self.start, "tokens": self.tokens}
        return self._stage("reference", settings, inputs, self._by_workers("reference", train, build), train.nodes)

    @cached_property
    def mismatched_reference(self) -> Stage:
        """The same for the mismatched pairs of the schedule, from which the reference point is estimated."""
        train, seed = self._config.train, self._config.seed("data_order")
        settings = {
            **train.token_limits,
            "precision": train.precision,
            "completions_per_step": train.completions_per_step,
            **train.duration,
            "seed": seed,
        }

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            data = tokenised(inputs, train, mismatched=True)
            costs = Costs.of(data, None, parameters_of(inputs["policy"]))
            steps = steps_of(data, "binary", train, costs, seed, mismatched=True)
            pairs = np.concatenate([step.mismatched for step in steps])
            prompts = as_lists(data.prompts).take(pairs[:, 0])
            completions = as_lists(data.completions).take(pairs[:, 1])
            self._save_reference(folder, inputs["policy"], prompts, completions, advance)

        inputs = {"policy": self.start, "tokens": self.tokens}
        by_workers = self._by_workers("mismatched_reference", train, build)
        return self._stage("mismatched_reference", settings, inputs, by_workers, train.nodes)

    @cached_property
    def align(self) -> Stage | None:
        """The policy trained with the loss; None where there is no loss and the start itself is evaluated."""
        loss = self._config.loss
        if loss is None:
            return None
        inputs = {"policy": self.start, "feedback": self.trained_on, "tokens": self.tokens}
        # A reference that is synced with the policy is scored as training goes.
        if loss.needs_reference and not loss.sync_every:
            inputs["reference"] = self.reference
            if loss.needs_kl:
                inputs["mismatched_reference"] = self.mismatched_reference
        return self._training("align", loss, self._config.train, inputs, "train.jsonl", self._config.at_steps)

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
        return [self._evaluation(self.align if step else self.start, step) for step in self._config.at_steps]

    @cached_property
    def implied_reward(self) -> ImpliedRewardStages:
        """The stages that read the policy as a reward model."""
        return ImpliedRewardStages(self._config, self.policy, self.start, self.feedback, self.trained_on, self._stage)

    def _evaluation(self, policy: Stage, step: int | None = None) -> EvaluationStages:
        reference = self.start if self._config.at_steps else None
        return EvaluationStages(
            self._config, policy, self.feedback, self._stage, step, reference, self._watch.screen.say
        )

    def _stage(
        self,
        name: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Stage],
        build: Build,
        machines: int = 1,
        part: str = "",
    ) -> Stage:
        def shown(folder: Path, folders: Folders) -> None:
            with self._watch.screen.stage(stage.label) as advance:
                build(folder, folders, advance)

        stage = Stage(name, VERSIONS[name], settings, inputs, shown, machines, part)
        return stage

    def _tokens(
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

        return self._stage("tokens", settings, {"tokenizer": self.base, "feedback": feedback}, build, part=part)

    def _training(
        self,
        name: str,
        loss: Loss,
        train: TrainConfig,
        inputs: Mapping[str, Stage],
        rows: str,
        at_steps: Sequence[int] = (),
    ) -> Stage:
        """Train the policy of ``inputs`` with ``loss`` on the tokens of the feedback's file ``rows``.

        The policies after ``at_steps`` are kept in the artifact, too.
        """
        keep = [step for step in at_steps if step]
        order, initialisation = self._config.seed("data_order"), self._config.seed("initialisation")
        settings = {
            # Losses are what users edit: the code of each counts, wherever it is.
            "loss": {**identity_of(loss), "source": digest_of(type(loss), _is_a_loss)},
            "train": train.identity(),
            "seed": order if order == initialisation else {"data_order": order, "initialisation": initialisation},
            **({"keep": keep} if keep else {}),
        }
        on_metrics = self._watch.on_metrics if name == "align" else lambda metrics, timing: None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation.prefix import first_prompts, save_prefixes
            from kto_bench.training import controls
            from kto_bench.training.carried import MEANS, SYNCED, Cached
            from kto_bench.training.kept import KeptPolicies
            from kto_bench.training.loop import Safety, Trainer, TrainingDivergedError
            from kto_bench.training.policy import TrainablePolicy
            from kto_bench.training.processes import Processes
            from kto_bench.training.reference import ReferenceLogProbs
            from kto_bench.training.saves import Saves

            tokenizer = load_tokenizer(inputs["policy"])
            tokens, prepare = loss.control_tokens, None
            if tokens is not None:
                controls.add_to_tokenizer(tokenizer, tokens)
                new = derive(initialisation, "control tokens")
                prepare = partial(controls.add_to_model, tokenizer=tokenizer, controls=tokens, seed=new)
            data = tokenised(inputs, train, mismatched=loss.needs_kl)
            prompts = first_prompts(inputs["feedback"] / rows, data, train.max_prompt_tokens)
            if tokens is not None:
                data = controls.conditioned(data, tokenizer, tokens)
            costs = Costs.of(data, loss, parameters_of(inputs["policy"]))
            steps = steps_of(data, loss.feedback, train, costs, order, mismatched=loss.needs_kl)
            check_at_steps(at_steps, len(steps))
            cached = Cached(*[
                ReferenceLogProbs.load(inputs[name]) if name in inputs else None
                for name in ("reference", "mismatched_reference")
            ])  # fmt: skip
            policy = TrainablePolicy(inputs["policy"], train, derive(initialisation, "adapter"), prepare)
            pad_id, head_seed = pad_id_of(tokenizer), derive(initialisation, "value head")
            trainer = Trainer(policy.model, pad_id, data, loss, train, cached, head_seed)
            kept = KeptPolicies(
                saved_beside(folder), keep, lambda into: policy.save_copy(into, trainer.module, tokenizer)
            )

            def on_step(metrics: Metrics, timing: Metrics) -> None:
                advance(metrics["step"], len(steps), _note(metrics, timing))
                on_metrics(metrics, timing)

            say, preemption = self._watch.screen.say, self._watch.preemption
            warned = loss.data_warnings(*class_counts(data, loss.feedback))
            for warning in warned:
                say(f"warning: {warning}")
            # SIGTERM stops the training between steps; once it is over, the policy is still saved.
            with preemption.deferred(raises=False):
                try:
                    safety = Safety(Saves(saved_beside(folder), say), preemption, say)
                    trainer.run(steps, folder, on_step, safety, kept)
                except TrainingDivergedError as error:
                    for warning in warned + loss.training_warnings(read_lines(folder / "metrics.jsonl")):
                        error.add_note(f"warning: {warning}")  # goes into the record with the traceback
                    raise
                policy.save(folder, trainer.module, tokenizer)
                if Processes().first:
                    kept.put_into(folder)
                    save_prefixes(folder, prompts, data)
                    for warning in loss.training_warnings(read_lines(folder / "metrics.jsonl")):
                        say(f"warning: {warning}")
                        warned.append(warning)
                    summary = {"truncated": data.truncated, "warnings": warned, "used": costs.used(steps)}
                    (folder / "data.json").write_text(json.dumps(summary), encoding="utf-8")
                    for name in (MEANS, SYNCED):  # needed to go on only
                        (folder / name).unlink(missing_ok=True)

        return self._stage(name, settings, inputs, self._by_workers(STAGES_OF[name], train, build), train.nodes)

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
                "metrics": lambda value: self._watch.on_metrics(*value),
                "say": self._watch.screen.say,
            }
            fingerprint = getattr(self, attribute).fingerprint
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

    def _save_reference(
        self, folder: Path, policy: Path, prompts: Sequence[Tokens], completions: Sequence[Tokens], advance: Advance
    ) -> None:
        from kto_bench.training.logprobs import Scorer
        from kto_bench.training.processes import Processes
        from kto_bench.training.reference import save_reference

        train, processes, model = self._config.train, Processes(), load_policy(policy)
        if train.sharding == "none":
            model.to(processes.device)
        scorer = Scorer(
            model,
            pad_id_of(load_tokenizer(policy)),
            precision=train.precision,
            padding_free=train.padding_free,
            max_logits=train.max_logits,
            device=processes.device,
        )
        module, most = processes.wrap(scorer, train.sharding), train.max_tokens_per_microbatch
        save_reference(folder, module, prompts, completions, advance, processes, max_tokens=most)


def _is_a_loss(cls: type) -> bool:
    return issubclass(cls, Loss) and cls is not Loss


def _note(metrics: Metrics, timing: Metrics) -> str:
    """The part of a step's metrics that fits on a progress bar."""
    shown = [("loss", "loss"), ("rewards/margin", "margin"), ("rewards/desirable", "desirable"), ("kl_raw", "KL")]
    parts = [f"{label} {metrics[key]:.3f}" for key, label in shown if key in metrics]
    return " · ".join([*parts, f"{timing['tokens_per_second']:,.0f} tokens/s"])
