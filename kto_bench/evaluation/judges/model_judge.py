"""Language models as judges: who is asked. How is a ``Wording``, and any of these works with any of those."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.judges.answers import Answer, Failure, Question
from kto_bench.evaluation.judges.cost import Price
from kto_bench.evaluation.judges.judge import PLAIN_TEMPLATE, Judge
from kto_bench.evaluation.judges.wording import Wording


class ModelJudge(Judge):
    """A language model that is asked in a ``wording`` of its own.

    ``temperature`` 0 is greedy; None leaves it to the server. ``top_logprobs`` asks for the log-probabilities of that
    many tokens at each position. An answer that states no preference is asked for again, until ``asks`` answers have
    been given; then it is missing, and the evaluation fails.
    """

    wording: Any
    max_tokens: int = Field(16, ge=1)
    temperature: float | None = Field(0.0, ge=0, le=2)
    top_logprobs: int | None = Field(None, ge=1, le=20)
    asks: int = Field(3, ge=1)

    changes_no_answer: ClassVar[frozenset[str]] = frozenset({"asks", "prompt_template"})
    """Fields that are left out of fingerprints."""

    @field_validator("wording")
    @classmethod
    def _wording(cls, node: Any) -> Wording:
        return node if isinstance(node, Wording) else build(node, Wording, "evaluation.judge.wording")

    @model_validator(mode="after")
    def _has_one_template(self) -> ModelJudge:
        if self.prompt_template != PLAIN_TEMPLATE:
            raise ConfigError(
                "evaluation.judge.prompt_template: a model judge is asked in its wording; give the template as "
                "evaluation.judge.wording.prompt_template"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What answers depend on."""
        identity = {key: value for key, value in super().identity().items() if key not in self.changes_no_answer}
        return {**identity, "wording": self.wording.identity()}

    @property
    def exchange_template(self) -> str:
        """Of the prompts from which the texts are read that go into the wording."""
        return PLAIN_TEMPLATE

    def order_key(self, prompt_id: str, instruction: str) -> str:
        """What the wording says."""
        key: str = self.wording.order_key(prompt_id, instruction)
        return key

    @property
    def price(self) -> Price | None:
        """What it costs; None if nothing is paid."""
        return None

    @abstractmethod
    def replies(self, questions: Iterable[Question]) -> Iterator[tuple[Question, Answer | Failure]]:
        """Ask as ``questions`` gives them, and yield what comes back as it comes, in any order.

        Raises EvaluationError where no question can be answered; what has been asked before is yielded first. Use
        ``kto_bench.evaluation.judges.asking.ask``, which keeps the answers.
        """
