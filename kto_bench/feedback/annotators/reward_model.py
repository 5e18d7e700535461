"""A Bradley-Terry reward model as an annotator, trained on the feedback that is there already."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr

from kto_bench.component import Component
from kto_bench.feedback.annotator import Annotator, Candidates, FittedAnnotator
from kto_bench.feedback.types import Feedback, FeedbackKind

if TYPE_CHECKING:
    from kto_bench.training.reward_model import RewardModel


class RewardTraining(Component):
    """How the reward model is trained, from the start's weights."""

    learning_rate: float = Field(1e-5, gt=0)
    epochs: float = Field(1.0, gt=0)
    pairs_per_step: int = Field(32, ge=1)
    warmup_fraction: float = Field(0.1, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_prompt_tokens: int = Field(1024, ge=1)
    max_completion_tokens: int = Field(1024, ge=1)
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of the prompts that it is not trained on, to tell how often it is right"
    )
    max_tokens_per_microbatch: int = Field(16_384, ge=1, description="a matter of memory only")


class RewardModelAnnotator(FittedAnnotator):
    r"""What a reward model r says that was trained on pairs with the Bradley-Terry loss.

    .. math:: L = -\log\sigma\big(r(x, y_{chosen}) - r(x, y_{rejected})\big)

    Source: Ouyang et al. 2022 (arXiv 2203.02155, Eq. 1), for one pair of a prompt. A choice is the completion of the
    larger reward; with a ``temperature`` T > 0 it is drawn, the first one with probability
    sigma((r_1 - r_2) / T). A thumb is up where the reward is above the mean reward of all completions that the model
    was trained on (T > 0: with probability sigma((r - mean) / T)). A rating from 1 to 5 is the fifth of these rewards
    that the completion's is in.
    """

    learns_from: ClassVar[FeedbackKind] = "paired"

    name: str = "reward_model"
    temperature: float = Field(0.0, ge=0)
    train: RewardTraining = RewardTraining()
    _model: Any = PrivateAttr(None)

    def fitting(self) -> dict[str, Any]:
        """Its training; the batch's size in memory is no part of it."""
        train = self.train.identity()
        return {key: value for key, value in train.items() if key != "max_tokens_per_microbatch"}

    def identity(self) -> dict[str, Any]:
        """What it does with rewards; where they come from is an input of its stage."""
        return {key: value for key, value in super().identity().items() if key != "train"}

    def fit(
        self, folder: Path, policy: Path, feedback: Feedback, seed: int, progress: Callable[[int, int], None]
    ) -> None:
        """Train it on the pairs of ``feedback``."""
        from kto_bench.training.reward_model import train_reward_model

        train_reward_model(folder, policy, feedback, self.train, seed, progress)

    def fitted(self, folder: Path) -> Annotator:
        """The annotator with the model in ``folder``."""
        from kto_bench.training.reward_model import RewardModel

        annotator = self.model_copy()
        annotator._model = RewardModel.load(folder, self.train)
        return annotator

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        """The larger reward wins, or is likelier to."""
        return [_above(first - second, self.temperature, rng) for first, second in self._rewards(shown)]

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        """By the mean reward of the training's completions."""
        mean = self._fitted.mean
        return [
            [_above(reward - mean, self.temperature, rng) for reward in rewards] for rewards in self._rewards(shown)
        ]

    def rate(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[int]]:
        """By fifths of the rewards of the training's completions."""
        limits = self._fitted.fifths
        return [[1 + sum(reward > limit for limit in limits) for reward in rewards] for rewards in self._rewards(shown)]

    def scores(self, shown: Sequence[Candidates]) -> list[list[dict[str, float]]]:
        """The ``reward`` of each completion."""
        return [[{"reward": reward} for reward in rewards] for rewards in self._rewards(shown)]

    def _rewards(self, shown: Sequence[Candidates]) -> list[list[float]]:
        rewards = iter(self._fitted.rewards([(one.prompt, text) for one in shown for text in one.completions]))
        return [[next(rewards) for _ in one.completions] for one in shown]

    @property
    def _fitted(self) -> RewardModel:
        if self._model is None:
            raise RuntimeError("the reward model is asked before it was fitted")
        model: RewardModel = self._model
        return model


def _above(difference: float, temperature: float, rng: random.Random) -> bool:
    if temperature == 0:
        return difference > 0 if difference else rng.random() < 0.5
    from math import exp

    scaled = max(-700.0, min(700.0, difference / temperature))
    return rng.random() < 1 / (1 + exp(-scaled))
