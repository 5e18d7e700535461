"""The stages of one round of an alignment with feedback on policy: sample, annotate, align."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_bench.feedback.annotation import annotated, candidates_of, mean_scores, prompts_at, sample_id, summary_of
from kto_bench.feedback.annotator import FittedAnnotator
from kto_bench.feedback.sources.on_policy import OnPolicyFeedback
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Feedback, iter_rows, read_rows, write_rows
from kto_bench.lines import read_lines, write_lines
from kto_bench.losses import Loss
from kto_bench.models import load_tokenizer
from kto_bench.screen import Advance
from kto_bench.seeds import derive
from kto_bench.store import Stage, saved_beside
from kto_bench.training.span import Span

if TYPE_CHECKING:
    from kto_bench.config import Config
    from kto_bench.stages import Stages

TOKENS = "tokens.jsonl"
SCORES = "scores.jsonl"
"""What the annotator perceives of each completion, where it can say."""
ROUND = "round-"
Folders = dict[str, Path]


class RoundStages:
    """One round. Describing its stages computes nothing."""

    def __init__(
        self,
        config: Config,
        stages: Stages,
        feedback: OnPolicyFeedback,
        loss: Loss,
        span: Span,
        earlier: list[RoundStages],
    ) -> None:
        """``earlier`` are the rounds before this one."""
        self._config, self._stages, self._feedback, self._loss = config, stages, feedback, loss
        self._earlier, self.span = list(earlier), span

    @classmethod
    def of(cls, config: Config, stages: Stages) -> list[RoundStages]:
        """The rounds of a run; none without feedback on policy, or without a loss."""
        feedback, loss, updates = config.feedback, config.loss, config.train.fixed_steps
        if loss is None or updates is None or not isinstance(feedback, OnPolicyFeedback):
            return []
        rounds: list[RoundStages] = []
        for first, last in feedback.spans(updates):
            rounds.append(cls(config, stages, feedback, loss, Span(first, last, updates), rounds))
            # Now, from the first on: that of the last would look up all before it in one chain, which may be too deep.
            _ = rounds[-1].align.fingerprint
        return rounds

    @property
    def number(self) -> int:
        """From 1 on."""
        return len(self._earlier) + 1

    @property
    def all(self) -> list[Stage]:
        """In the order in which they are fetched."""
        inputs = {name: stage for name, stage in self.align.inputs.items() if name not in ("policy", "before")}
        fitted = [] if self._fitted is None else [self._fitted]
        return [self.sample, *fitted, self.annotate, self.tokens, *inputs.values(), self.align]

    @cached_property
    def sample(self) -> Stage:
        """Completions of the round's prompts by the newest policy, or one that is ``staleness`` rounds older."""
        config, feedback = self._config, self._feedback
        generation, order, seed = feedback.generation, config.seed("data_order"), config.seed("sampling")
        limits = config.train.token_limits
        if generation.max_prompt_tokens is not None:
            limits = {**limits, "max_prompt_tokens": generation.max_prompt_tokens}
        each = feedback.prompts_per_update(config.train)
        places = range(self.span.first * each, self.span.last * each)
        asked = self.number - 1 - feedback.staleness
        settings = {
            "places": [places.start, places.stop],
            "samples_per_prompt": feedback.samples_per_prompt,
            "generation": generation.identity(),
            "max_prompt_tokens": limits["max_prompt_tokens"],
            "order": order,
            "seed": seed,
        }

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation.backends import backend_for
            from kto_bench.evaluation.generation.generate import generate
            from kto_bench.evaluation.generation.loaded import forget
            from kto_bench.evaluation.generation.prefix import check_prefixes
            from kto_bench.evaluation.generation.prompts import EvaluationPrompt

            checkpoint = inputs["policy"]
            tokenizer = load_tokenizer(checkpoint)
            check_prefixes(checkpoint, tokenizer)
            rows = iter_rows(inputs["feedback"] / "train.jsonl", feedback.given.kind())
            prompts = [
                EvaluationPrompt(sample_id(place, sample), prompt)
                for place, prompt in zip(places, prompts_at(places, rows, order), strict=True)
                for sample in range(feedback.samples_per_prompt)
            ]
            encoder, saved = Encoder(tokenizer, **limits), saved_beside(folder) / TOKENS
            backend = backend_for(generation, checkpoint, limits["max_prompt_tokens"])
            try:
                rows_, answers = generate(backend, encoder, prompts, generation, derive(seed, "sample"), advance, saved)
            finally:
                forget()  # training comes next, and needs the memory
            write_lines(folder / TOKENS, map(asdict, answers))
            write_lines(folder / "completions.jsonl", rows_)

        policy = self._earlier[asked - 1].align if asked > 0 else self._stages.start
        inputs = {"policy": policy, "feedback": self._stages.feedback}
        return self._describe("sample", settings, inputs, build)

    @cached_property
    def annotate(self) -> Stage:
        """What the annotator says of them."""
        feedback, annotator, seed = self._feedback, self._feedback.annotator, self._config.seed("sampling")
        settings = {"annotator": annotator.identity(), "kind": feedback.kind(), "seed": seed}

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            completions = read_lines(inputs["sample"] / "completions.jsonl")
            candidates = candidates_of(completions)
            who = annotator.fitted(inputs["fitted"]) if "fitted" in inputs else annotator
            who = who.at_work(folder)
            rng = random.Random(derive(seed, "annotate", candidates[0].id))
            rows = annotated(candidates, who, feedback.kind(), rng)
            scores = who.scores(candidates)
            write_rows(folder / "train.jsonl", rows.rows)
            counts = {**summary_of(rows, completions), "round": self.number, "scores": mean_scores(scores)}
            if counts["scores"]:
                write_lines(folder / SCORES, (score for of in scores for score in of))
            for warning in counts["warnings"]:
                self._stages.say(f"warning: round {self.number}: {warning}")
            (folder / "data.json").write_text(json.dumps(counts, indent=2), encoding="utf-8")
            advance(len(candidates), len(candidates))

        inputs = {"sample": self.sample, **({"fitted": self._fitted} if self._fitted else {})}
        return self._describe("annotate", settings, inputs, build)

    @property
    def _fitted(self) -> Stage | None:
        return self._earlier[0].fitted_annotator if self._earlier else self.fitted_annotator

    @cached_property
    def fitted_annotator(self) -> Stage | None:
        """What an annotator that must be fitted first has learnt of the source's feedback; the same in all rounds."""
        annotator, given = self._feedback.annotator, self._feedback.given
        if not isinstance(annotator, FittedAnnotator):
            return None
        seed = self._config.seed("initialisation")

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            rows = read_rows(inputs["feedback"] / "train.jsonl", given.kind())
            annotator.fit(folder, inputs["policy"], Feedback(given.kind(), rows), derive(seed, "annotator"), advance)

        inputs = {"policy": self._stages.start, "feedback": self._stages.feedback}
        return self._stages.describe("reward_model", {"annotator": annotator.fitting(), "seed": seed}, inputs, build)

    @cached_property
    def tokens(self) -> Stage:
        """The feedback as token ids."""
        train, kind, controls = self._config.train, self._feedback.kind(), self._loss.control_tokens
        return self._stages.tokens_of(self.annotate, train, kind, "train.jsonl", controls, part=self._part)

    @cached_property
    def align(self) -> Stage:
        """The policy after the round's updates."""
        loss, stages, before = self._loss, self._stages, self._before
        inputs: dict[str, Stage] = {"policy": stages.start, "feedback": self.annotate, "tokens": self.tokens}
        if before is not None:
            inputs["before"] = before
        # A reference that is synced is scored as training goes, from the round's first sync on.
        if loss.needs_reference and (not loss.sync_every or before is not None):
            policy, step = self._reference
            where = f"rounds.{self.number - 1}"
            inputs["reference"] = stages.reference_of(f"{where}.reference", policy, self.tokens, self._part, step)
            if loss.needs_kl:
                inputs["mismatched_reference"] = stages.mismatched_reference_of(
                    f"{where}.mismatched_reference", policy, self.tokens, self._part, step, self.span
                )
        # What a later round syncs with is kept as well.
        wanted = {*self._config.at_steps, *(self._synced_steps - {self.span.last})}
        keep = sorted(step for step in wanted if self.span.first < step <= self.span.last)
        attribute = f"rounds.{self.number - 1}.align"
        part = "" if self.span.is_last else self._part  # the last one makes the policy
        return stages.training(
            "align", attribute, loss, self._config.train, inputs, "train.jsonl", keep, self.span, part
        )

    @property
    def reference(self) -> Stage:
        """The reference's log-probabilities of the round's completions."""
        return self.align.inputs["reference"]

    @property
    def mismatched_reference(self) -> Stage:
        """The same for the mismatched pairs of its steps."""
        return self.align.inputs["mismatched_reference"]

    @property
    def _before(self) -> Stage | None:
        return self._earlier[-1].align if self._earlier else None

    @property
    def _reference(self) -> tuple[Stage, int | None]:
        """Whose log-probabilities the round begins with: a stage, and the step after which its policy was kept."""
        if self._loss.sync_every:
            step = _last_sync(self.span.first, self._loss.sync_every)
            holder = next((one for one in self._earlier if one.span.first < step <= one.span.last), None)
            if holder is None:
                return self._stages.start, None
            return holder.align, step if step < holder.span.last else None
        if self._feedback.reference == "previous" and self._before is not None:
            return self._before, None
        return self._stages.start, None

    @property
    def _synced_steps(self) -> set[int]:
        """After which steps the policies are that the reference is when a round begins."""
        every, updates = self._loss.sync_every, self.span.total
        if not every:
            return set()
        return {_last_sync(first, every) for first, _ in self._feedback.spans(updates) if first}

    @property
    def _part(self) -> str:
        return f"{ROUND}{self.number}"

    def _describe(self, name: str, settings: dict[str, Any], inputs: dict[str, Stage], build: Any) -> Stage:
        return self._stages.describe(name, settings, inputs, build, part=self._part)


def _last_sync(step: int, every: int) -> int:
    """After which step the policy was that a reference, synced every so many steps, is after ``step``.

    The loop syncs in every ``every``-th step before the optimiser's update: with the policy after the step before it.
    """
    return max(step // every * every - 1, 0)


def collect_rounds(folders: dict[str, Path], data: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the data of all rounds; empty where there are none.

    ``folders`` are those of the run's stages by label, ``data`` what the last round's alignment says.
    """
    parts = [label.partition("/")[2] for label in folders if label.startswith(f"annotate/{ROUND}")]
    if not parts:
        return {}

    def read(label: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((folders[label] / "data.json").read_text(encoding="utf-8"))
        return content

    sittings = [read(f"annotate/{part}") for part in parts]
    trained = [read(f"align/{part}") if f"align/{part}" in folders else data for part in parts]
    rounds_of: dict[str, list[str]] = {}
    for one in sittings:
        for text in one["warnings"]:
            rounds_of.setdefault(text, []).append(str(one["round"]))
    warnings = [f"round{'s' * (len(of) > 1)} {', '.join(of)}: {text}" for text, of in rounds_of.items()]
    warnings += data["warnings"]  # of the metrics of all rounds, and of the classes in the last

    def total(field: str) -> dict[str, int]:
        names = dict.fromkeys(name for one in trained for name in one[field])
        return {name: sum(one[field].get(name, 0) for one in trained) for name in names}

    return {
        "rounds": sittings,
        "used": total("used"),
        "truncated": total("truncated"),
        "warnings": list(dict.fromkeys(warnings)),
    }
