"""Several sources as one."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from kto_bench.component import ConfigError, build
from kto_bench.feedback.conversions import as_kind, poorest
from kto_bench.feedback.mixtures import mix
from kto_bench.feedback.types import Feedback, FeedbackKind, FeedbackSource


class MixtureFeedback(FeedbackSource):
    """The rows of ``parts``, in the proportions of ``weights``, as the kind that all parts can serve.

    Without ``weights`` and ``rows`` everything is taken. With them, numbers are exact and no row is taken twice; which
    rows are left out is drawn at random by ``seed``. Parts stand in the order of their names. What is held out, kept,
    turned round or decontaminated is said of the mixture, but for test splits that parts have of their own
    (``heldout_split``), which are held out together.
    """

    name: str = "mixture"
    parts: dict[str, Any] = Field(min_length=1, description="feedback sources by the names that rows are called after")
    weights: dict[str, float] | None = Field(None, description="of each part, in rows; null: all of every part")
    rows: int | None = Field(None, ge=1, description="how many in all; null: as many as there can be")
    seed: int = Field(0, ge=0, description="which rows are left out; a run's own seed does not change it")

    @field_validator("parts")
    @classmethod
    def _parts(cls, nodes: dict[str, Any]) -> dict[str, FeedbackSource]:
        parts = {
            name: node if isinstance(node, FeedbackSource) else build(node, FeedbackSource, f"feedback.parts.{name}")
            for name, node in sorted(nodes.items())  # fingerprints do not know an order, so rows must not
        }
        for name, part in parts.items():
            if part.alters or part.decontaminate is not None or part.heldout_fraction > 0:
                raise ConfigError(
                    f"feedback.parts.{name}: heldout_fraction, keep_desirable, keep_undesirable, "
                    "one_completion_per_prompt, label_noise and decontaminate are said of the whole mixture, as "
                    "feedback.heldout_fraction and so on; leave them alone in its parts"
                )
        return parts

    @model_validator(mode="after")
    def _weights_fit(self) -> MixtureFeedback:
        if self.weights and set(self.weights) != set(self.parts):
            raise ValueError(
                f"weights: {sorted(self.weights)} are not the parts, {sorted(self.parts)}; give each part a weight"
            )
        if any(weight <= 0 for weight in (self.weights or {}).values()):
            raise ValueError(
                f"weights: {self.weights}: choose numbers above 0, and leave out parts that are not wanted"
            )
        if self.heldout_fraction > 0 and self._own:
            raise ValueError(
                f"heldout_fraction: {self.heldout_fraction} and the heldout_split of {', '.join(self._own)} are two "
                "ways to hold out prompts; set one of them to 0 or null"
            )
        return self

    @property
    def holds_out(self) -> bool:
        """Whether some prompts are kept for evaluation."""
        return bool(self._own) or super().holds_out

    def kind(self) -> FeedbackKind:
        """The richest that all parts can serve."""
        return poorest(part.kind() for part in self.parts.values())

    def check(self) -> None:
        """Each part's."""
        for part in self.parts.values():
            part.check()

    def load(self) -> Feedback:
        """The rows of all parts. Raises FeedbackError where a part has too few, or cannot be read."""
        return mix({name: part.load() for name, part in self.parts.items()}, self.weights or {}, self.rows, self.seed)

    def heldout(self) -> Feedback | None:
        """The test splits that parts have of their own, whole."""
        own = {name: self.parts[name].heldout() for name in self._own}
        return mix({name: as_kind(part, self.kind()) for name, part in own.items()}, {}, None, 0) if own else None

    def demonstrations(self) -> Feedback | None:
        """What each part says they are: its own, or the good side of it; None where no part has any of its own."""
        own = {name: part.demonstrations() for name, part in self.parts.items()}
        if all(part is None for part in own.values()):
            return None
        mixed = self.load()
        rows = [row for row in as_kind(mixed, "demonstrations").rows if own[row.source] is None]
        added = mix({name: part for name, part in own.items() if part is not None}, {}, None, 0)
        return Feedback("demonstrations", [*rows, *added.rows])

    def origin(self) -> dict[str, Any]:
        """Where each part came from."""
        return {name: part.origin() for name, part in self.parts.items()}

    def identity(self) -> dict[str, Any]:
        """The settings, with the identity of each part."""
        parts = {name: part.identity() for name, part in self.parts.items()}
        return {**super().identity(), "parts": parts}

    @property
    def _own(self) -> list[str]:
        return [name for name, part in self.parts.items() if part.holds_out]
