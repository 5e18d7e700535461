"""The stages that read the policy as a reward model: log-probabilities of labelled examples, and implied rewards."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from kto_bench.config import Config
from kto_bench.evaluation.implied_reward import (
    ROWS,
    SUMMARY,
    Example,
    Scored,
    fitting,
    implied_rewards,
    labelled_examples,
    log_probs,
)
from kto_bench.feedback.subsampling import trained_kind
from kto_bench.lines import read_lines, write_lines
from kto_bench.models import load_policy, load_tokenizer, positions_of
from kto_bench.screen import Advance
from kto_bench.store import Stage

Folders = dict[str, Path]


class ImpliedRewardStages:
    """What is asked of labelled examples, where ``evaluation.implied_reward`` asks for it. Describing computes nothing.

    ``implied_reference`` scores them with the start, once for all losses that need a reference and for all orders of
    the data; ``implied_reward`` with the policy.
    """

    def __init__(
        self,
        config: Config,
        policy: Stage,
        start: Stage,
        feedback: Stage,
        trained_on: Stage,
        describe: Callable[..., Stage],
    ) -> None:
        """``feedback`` holds held-out rows; ``trained_on`` what losses see, which may be the same stage."""
        self._config, self._policy, self._start, self._describe = config, policy, start, describe
        self._rows = {"feedback": feedback, "trained_on": trained_on}

    @property
    def all(self) -> list[Stage]:
        """In the order in which they are fetched; none where nothing is asked for."""
        if self._config.evaluation.implied_reward is None:
            return []
        stages = (self._rows["trained_on"], self.implied_reference, self.implied_reward)
        return [stage for stage in stages if stage is not None]

    @cached_property
    def implied_reference(self) -> Stage | None:
        """The reference's log-probabilities of the examples; none for a loss without a reference."""
        loss, train = self._config.loss, self._config.train
        if loss is None or not loss.needs_reference:
            return None

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.training.device import pick_device

            policy = load_policy(inputs["policy"]).to(pick_device())
            log_probs(folder, policy, load_tokenizer(inputs["policy"]), self._scored(inputs), train, advance)

        inputs = {"policy": self._start, **self._rows}
        # Mismatched pairs are scored where the loss asks for them only.
        settings = {**self._settings, "mismatched": loss.needs_kl}
        return self._describe("implied_reference", settings, inputs, build)

    @cached_property
    def implied_reward(self) -> Stage:
        """The implied reward of every example."""
        loss, train, source = self._config.loss, self._config.train, self._config.feedback
        reference = self.implied_reference

        def build(folder: Path, inputs: Folders, advance: Advance) -> None:
            from kto_bench.evaluation.generation.loaded import loaded

            scored = self._scored(inputs)
            log_probs(folder, *loaded(inputs["policy"]), scored, train, advance)
            metrics = read_lines(inputs["policy"] / "metrics.jsonl") if loss is not None else []
            rows, summary = implied_rewards(scored, folder, inputs.get("reference"), loss, metrics, source)
            write_lines(folder / ROWS, rows)
            (folder / SUMMARY).write_text(json.dumps(summary, indent=2), encoding="utf-8")

        inputs = {"policy": self._policy, "start": self._start, **self._rows}
        inputs |= {} if reference is None else {"reference": reference}
        return self._describe("implied_reward", self._settings, inputs, build)

    @property
    def _settings(self) -> dict[str, Any]:
        train = self._config.train
        return {"rows": self._config.evaluation.implied_reward, **train.token_limits, "precision": train.precision}

    def _scored(self, inputs: Folders) -> Scored:
        loss = self._config.loss
        return Scored.of(self._examples(inputs), mismatched=loss is not None and loss.needs_kl)

    def _examples(self, inputs: Folders) -> list[Example]:
        """The same for both stages: the start's tokenizer and positions say what can be scored."""
        config, start = self._config, inputs.get("start", inputs["policy"])
        rows = config.evaluation.implied_reward
        assert rows is not None, "the stages are described only where it is asked for"
        examples = labelled_examples(
            inputs["feedback"], inputs["trained_on"], config.feedback.kind(), trained_kind(config.feedback), rows
        )
        return fitting(examples, load_tokenizer(start), config.train, positions_of(start))
