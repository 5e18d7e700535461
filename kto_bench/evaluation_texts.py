"""What a run is evaluated on, as texts: what its feedback must not contain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.config import Config, EvaluationConfig
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.benchmarks.task_texts import identity_of_texts, strings_in, suite_texts
from kto_bench.evaluation.generation.prompts import PromptSource
from kto_bench.feedback.sources.content import digests_of
from kto_bench.feedback.sources.records import everything_below, is_saved, read_all
from kto_bench.feedback.types import Decontamination, Feedback, FeedbackError


def evaluation_texts(config: Config) -> EvaluationTexts | None:
    """The texts that the feedback of ``config`` is compared with; None where it is not to be decontaminated.

    Raises ConfigError where there is nothing to compare it with: the counts would say that it is clean.
    """
    chosen = config.feedback.given.decontaminate
    if chosen is None:
        return None
    texts = EvaluationTexts(chosen, config.evaluation)
    if not texts.any:
        raise ConfigError(
            f"feedback.decontaminate: {chosen.model_dump(mode='json')} compares with nothing: evaluation "
            f"{config.evaluation.name!r} asks only what the feedback itself holds out, or is not looked at "
            "(evaluation: false); choose an evaluation with prompts or benchmarks of its own, name files in against, "
            "or set decontaminate to null"
        )
    return texts


@dataclass(frozen=True)
class EvaluationTexts:
    """Prompts, their references, and benchmark questions of ``evaluation``, and the files that ``chosen`` names."""

    chosen: Decontamination
    evaluation: EvaluationConfig

    @property
    def any(self) -> bool:
        """Whether there are texts at all."""
        return self._prompts is not None or self._benchmarks is not None or bool(self.chosen.against)

    def identity(self) -> dict[str, Any]:
        """What decides on the texts, for fingerprints; of files, their content."""
        identity: dict[str, Any] = {"words": self.chosen.words}
        if self._prompts is not None:
            identity["prompts"] = self._prompts.identity()
        if self._benchmarks is not None:
            identity["benchmarks"] = identity_of_texts(self._benchmarks, self.evaluation.data_root)
        if self.chosen.against:
            identity["against"] = [digests_of(_contents(path)) for path in self.chosen.against]
        return identity

    def load(self) -> dict[str, list[str]]:
        """The texts by the name of what asks them."""
        texts: dict[str, list[str]] = {}
        if self._prompts is not None:
            asked = self._prompts.load(Feedback("demonstrations", []))
            texts[f"prompts: {self._prompts.name}"] = [
                text
                for prompt in asked
                for text in (*(m["content"] for m in prompt.prompt), *prompt.next_turns, prompt.reference)
                if text
            ]
        if self._benchmarks is not None:
            suite = suite_texts(self._benchmarks, self.evaluation.data_root)
            texts |= {f"benchmark: {name}": found for name, found in suite.items()}
        for path in self.chosen.against:
            records = (record for found in _below(path) for record in read_all(found))
            texts[str(path)] = [text for record in records for text in strings_in(record.value)]
        return texts

    @property
    def _prompts(self) -> PromptSource | None:
        """The prompt source, unless it asks what the feedback itself holds out."""
        prompts: PromptSource | None = self.evaluation.prompts if self.chosen.evaluation else None
        return None if prompts is None or prompts.uses_heldout else prompts

    @property
    def _benchmarks(self) -> Benchmarks | None:
        return self.evaluation.benchmarks if self.chosen.evaluation else None


def _below(path: Path) -> list[Path]:
    found = everything_below(path)
    if not found:
        raise FeedbackError(
            f"feedback.decontaminate.against: {path} is no file, and no folder with JSON, JSON lines, parquet or "
            f"save_to_disk files (looked in {Path.cwd()})"
        )
    return found


def _contents(path: Path) -> list[Path]:
    return [
        file
        for found in _below(path)
        for file in (sorted(found.rglob("*")) if found.is_dir() and is_saved(found) else [found])
        if file.is_file()
    ]
