"""What is done in a stage that trains a policy: the SFT, and the alignment or one of its rounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kto_bench.config import check_at_steps
from kto_bench.lines import read_lines
from kto_bench.losses import Loss
from kto_bench.models import load_tokenizer, pad_id_of, parameters_of
from kto_bench.screen import Advance
from kto_bench.seeds import derive
from kto_bench.store import saved_beside
from kto_bench.training.budget import Costs
from kto_bench.training.config import TrainConfig
from kto_bench.training.examples import class_counts, steps_of, tokenised
from kto_bench.training.span import Span
from kto_bench.watch import Metrics, Watch


@dataclass(frozen=True)
class Training:
    """Train the policy of the inputs with ``loss`` on the tokens of the feedback's file ``rows``."""

    loss: Loss
    train: TrainConfig
    rows: str
    keep: Sequence[int]
    """Steps after which the policy is kept in the artifact, too."""
    order: int
    """The seed of the data's order."""
    initialisation: int
    """The seed of new weights."""
    on_metrics: Callable[[Metrics, Metrics], None]
    watch: Watch
    span: Span | None = None
    """The part of the training that is done; inputs["before"] is then the artifact of the part before."""

    def __call__(self, folder: Path, inputs: Mapping[str, Path], advance: Advance) -> None:
        """Build the artifact in ``folder``."""
        from kto_bench.evaluation.generation.prefix import first_prompts, save_prefixes
        from kto_bench.training import controls
        from kto_bench.training.carried import MEANS, SYNCED, Cached
        from kto_bench.training.kept import KeptPolicies
        from kto_bench.training.loop import Safety, Trainer, TrainingDivergedError
        from kto_bench.training.policy import TrainablePolicy
        from kto_bench.training.processes import Processes
        from kto_bench.training.reference import ReferenceLogProbs
        from kto_bench.training.saves import Saves

        loss, train = self.loss, self.train
        tokenizer = load_tokenizer(inputs["policy"])
        tokens, prepare = loss.control_tokens, None
        if tokens is not None:
            controls.add_to_tokenizer(tokenizer, tokens)
            new = derive(self.initialisation, "control tokens")
            prepare = partial(controls.add_to_model, tokenizer=tokenizer, controls=tokens, seed=new)
        data = tokenised(inputs, train, mismatched=loss.needs_kl)
        prompts = first_prompts(inputs["feedback"] / self.rows, data, train.max_prompt_tokens)
        if tokens is not None:
            data = controls.conditioned(data, tokenizer, tokens)
        costs = Costs.of(data, loss, parameters_of(inputs["policy"]))
        steps = steps_of(data, loss.feedback, train, costs, self.order, mismatched=loss.needs_kl, span=self.span)
        check_at_steps(self.keep, len(steps) if self.span is None else self.span.total)
        cached = Cached(*[
            ReferenceLogProbs.load(inputs[name]) if name in inputs else None
            for name in ("reference", "mismatched_reference")
        ])  # fmt: skip
        policy = TrainablePolicy(inputs["policy"], train, derive(self.initialisation, "adapter"), prepare)
        pad_id, head_seed = pad_id_of(tokenizer), derive(self.initialisation, "value head")
        trainer = Trainer(policy.model, pad_id, data, loss, train, cached, head_seed)
        kept = KeptPolicies(
            saved_beside(folder), self.keep, lambda into: policy.save_copy(into, trainer.module, tokenizer)
        )

        def on_step(metrics: Metrics, timing: Metrics) -> None:
            advance(metrics["step"], len(steps) if self.span is None else self.span.last, _note(metrics, timing))
            self.on_metrics(metrics, timing)

        say, preemption = self.watch.screen.say, self.watch.preemption
        warned = loss.data_warnings(*class_counts(data, loss.feedback))
        for warning in warned:
            say(f"warning: {warning}")
        # SIGTERM stops the training between steps; once it is over, the policy is still saved.
        with preemption.deferred(raises=False):
            try:
                safety = Safety(Saves(saved_beside(folder), say), preemption, say)
                trainer.run(steps, folder, on_step, safety, kept, self.span, inputs.get("before"))
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


def _note(metrics: Metrics, timing: Metrics) -> str:
    """The part of a step's metrics that fits on a progress bar."""
    shown = [("loss", "loss"), ("rewards/margin", "margin"), ("rewards/desirable", "desirable"), ("kl_raw", "KL")]
    parts = [f"{label} {metrics[key]:.3f}" for key, label in shown if key in metrics]
    return " · ".join([*parts, f"{timing['tokens_per_second']:,.0f} tokens/s"])
