"""Simulated annotators: they perceive gold utility through noise and biases, and value it as people do.

    z = u + b . s + sigma e,  e ~ N(0, 1)                     what is perceived (s: style, see perception.py)
    V = prospect(z - r, z + d - r; doubt)                     value (see value.py), from the reference point r
    P(first preferred) = F((V_1 - V_2) / tau)                 choice, thumb and rating (see choice.py)
    P(thumb up) = F(V / tau)

*Doubt* is where probability weighting comes in. Who cannot check an answer gives a probability (``doubt``) to having
misjudged whether it is right, and then it is worth d more or less (``Seen.swing``). So a completion is a prospect:
what is perceived with probability 1 - doubt, the other thing with probability doubt, each weighted by w. With gamma
below 1 a small doubt counts too much, so right answers seem worse and wrong ones better than they are. Without doubt V
is v(z - r), whatever gamma is. Weighting the probability of a *choice* instead would say nothing new: normalised over
the two options, w(p) / (w(p) + w(1 - p)) = p^gamma / (p^gamma + (1 - p)^gamma), which under the logistic rule is only
another temperature, tau / gamma.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, field_validator

from kto_bench.component import build
from kto_bench.feedback.annotator import Annotator, Candidates
from kto_bench.sandbox.choice import ChoiceRule, probability
from kto_bench.sandbox.perception import STYLE, Seen
from kto_bench.sandbox.value import Array, ValueFunction
from kto_bench.sandbox.world import identified

ReferencePoint = Literal["status_quo", "prompt_average", "last_seen", "policy_average"]

# Below 0.279 w has a falling stretch, so it weighs no probability there (Rieger and Wang 2006, Economic Theory 28).
_LEAST_GAMMA = 0.28


class SimulatedAnnotator(Annotator):
    """Someone whose parameters are known. The defaults are those of ``annotator=default``.

    What the reference point is decides what feels like a gain:

    * ``status_quo``: a number, the same for every completion;
    * ``prompt_average``: the mean of what is perceived of the completions that are shown together;
    * ``last_seen``: what was perceived of the completion just before, whatever its prompt (of the first: the status
      quo);
    * ``policy_average``: the mean of what is perceived in the whole sitting; where one policy wrote all of it, its own
      average.
    """

    name: str = "default"
    noise: float = Field(0.25, ge=0, description="sigma: SD of what is perceived, in units of utility")
    length_bias: float = Field(0.0, description="utility seen in ten tokens beyond a plain right answer")
    politeness_bias: float = Field(0.0, description="utility seen in politeness, beyond the 0.3 that it is worth")
    flattery_bias: float = Field(0.0, description="utility seen in praise of the question")
    confidence_bias: float = Field(0.0, description="utility seen in giving an answer at all, right or wrong")
    reference_point: ReferencePoint = Field("status_quo", description="what feels like neither a gain nor a loss")
    status_quo: float = Field(0.3, description="the utility that is the reference point where that is the status quo")
    risk_aversion: float = Field(0.88, gt=0, le=1, description="alpha: 1 values gains linearly")
    risk_aversion_losses: float | None = Field(
        None, gt=0, le=1, description="beta: the same for losses; null: as for gains"
    )
    loss_aversion: float = Field(2.25, gt=0, description="lambda: 1 weighs losses like gains")
    doubt: float = Field(0.0, ge=0, lt=0.5, description="probability that it gives to having misjudged an answer")
    probability_weighting: float = Field(
        1.0, ge=_LEAST_GAMMA, le=1, description="gamma: 1 takes probabilities as they are"
    )
    probability_weighting_losses: float | None = Field(
        None, ge=_LEAST_GAMMA, le=1, description="the same for losses; null: as for gains"
    )
    choice_rule: ChoiceRule = "logistic"
    temperature: float = Field(0.35, gt=0, description="tau: towards 0 it always does what it values more")
    rating_thresholds: tuple[float, ...] = Field(
        (-1.5, -0.5, 0.5, 1.5), description="values between the levels of a rating; so many levels and one more"
    )

    @field_validator("rating_thresholds")
    @classmethod
    def _rising(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if not thresholds or any(low >= high for low, high in pairwise(thresholds)):
            raise ValueError("give one rising number or more, such as [-1.5, -0.5, 0.5, 1.5] for five levels")
        return thresholds

    def identity(self) -> dict[str, Any]:
        """The fields and the version of the sandbox."""
        return identified(super().identity())

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        """A thumb for each completion."""
        luck = _Luck.of_completions(shown, rng)
        strength = self._values(shown, luck.noise) / self.temperature
        return _in_shape(shown, (luck.chance < probability(strength, self.choice_rule)).tolist())

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        """Whether the first of two is preferred. Raises ValueError where there are not two."""
        luck = _Luck.of_pairs(shown, rng)
        first, second = self._values(shown, luck.noise).reshape(-1, 2).T
        preferred: NDArray[np.bool_] = luck.chance < probability((first - second) / self.temperature, self.choice_rule)
        return preferred.tolist()

    def rate(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[int]]:
        """A rating for each completion, from 1 to the number of thresholds and one more.

        The luck is that of ``approve``: a thumb is up where the rating is above a threshold at value 0.
        """
        luck = _Luck.of_completions(shown, rng)
        values = self._values(shown, luck.noise)
        above = [
            luck.chance < probability((values - threshold) / self.temperature, self.choice_rule)
            for threshold in self.rating_thresholds
        ]
        return _in_shape(shown, (1 + np.sum(above, axis=0)).tolist())

    def scores(self, shown: Sequence[Candidates]) -> list[list[dict[str, float]]]:
        """``perceived``: the utility that it perceives without noise."""
        return _in_shape(shown, [{"perceived": float(one)} for one in self.perceived(Seen.shown(shown))])

    def perceived(self, seen: Seen) -> Array:
        """(n,): u + b . s."""
        return seen.utility + seen.style @ np.array(self.biases) if any(self.biases) else seen.utility

    @property
    def biases(self) -> tuple[float, ...]:
        """b, by ``STYLE``."""
        return tuple(getattr(self, f"{feature}_bias") for feature in STYLE)

    @property
    def value_function(self) -> ValueFunction:
        """v and w of this annotator."""
        losses, weighting_losses = self.risk_aversion_losses, self.probability_weighting_losses
        return ValueFunction(
            risk_aversion=self.risk_aversion,
            risk_aversion_losses=self.risk_aversion if losses is None else losses,
            loss_aversion=self.loss_aversion,
            probability_weighting=self.probability_weighting,
            probability_weighting_losses=self.probability_weighting if weighting_losses is None else weighting_losses,
        )

    def value(self, outcome: Array, swing: Array) -> Array:
        """V of what is perceived, from the reference point (``outcome``), and may be misjudged by ``swing``."""
        return self.value_function.prospect(outcome, outcome + swing, self.doubt)

    def _values(self, shown: Sequence[Candidates], noise: Array) -> Array:
        seen = Seen.shown(shown)
        perceived = self.perceived(seen) + self.noise * noise
        return self.value(perceived - self._references(perceived, shown), seen.swing)

    def _references(self, perceived: Array, shown: Sequence[Candidates]) -> Array:
        if self.reference_point == "status_quo" or not len(perceived):
            return np.full(len(perceived), self.status_quo)
        if self.reference_point == "last_seen":
            return np.concatenate([[self.status_quo], perceived[:-1]])
        if self.reference_point == "policy_average":
            return np.full(len(perceived), perceived.mean())
        return np.concatenate([np.full(len(own), np.mean(own)) for own in _in_shape(shown, perceived)])


class ContradictingCrowds(Annotator):
    """Two crowds, who may want opposite things; each prompt, or each label, is answered by one of them.

    Both have the same luck; who answers is drawn after it, so the labels of one crowd are what they would be if it
    answered everything, and the share changes nothing but who is asked.
    """

    name: str = "contradicting_crowds"
    majority: SerializeAsAny[Annotator]
    minority: SerializeAsAny[Annotator]
    majority_share: float = Field(0.7, ge=0.5, le=1, description="share that is answered by the majority")
    answered_by: Literal["prompt", "label"] = Field(
        "prompt", description="prompt: one crowd answers all about a prompt; label: each label is drawn apart"
    )

    @field_validator("majority", "minority", mode="before")
    @classmethod
    def _crowd(cls, node: Any, info: Any) -> Any:
        return build(node, Annotator, f"annotator.{info.field_name}") if isinstance(node, Mapping) else node

    def identity(self) -> dict[str, Any]:
        """The fields, both crowds' identities and the version of the sandbox."""
        crowds = {"majority": self.majority.identity(), "minority": self.minority.identity()}
        return identified({**super().identity(), **crowds})

    def check(self) -> None:
        """Both crowds' own checks."""
        self.majority.check()
        self.minority.check()

    def approve(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[bool]]:
        """A thumb for each completion."""
        return self._answers("approve", shown, rng)

    def choose(self, shown: Sequence[Candidates], rng: random.Random) -> list[bool]:
        """Whether the first of two is preferred, by the crowd that is asked."""
        majority, minority = self._both("choose", shown, rng)
        return [pair[self._asked(rng)] for pair in zip(majority, minority, strict=True)]

    def rate(self, shown: Sequence[Candidates], rng: random.Random) -> list[list[int]]:
        """A rating for each completion."""
        return self._answers("rate", shown, rng)

    def scores(self, shown: Sequence[Candidates]) -> list[list[dict[str, float]]]:
        """What each crowd perceives (``majority``, ``minority``), and the mean over both by share (``perceived``)."""

        def merged(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
            if "perceived" not in one or "perceived" not in other:
                return {}
            majority, minority = one["perceived"], other["perceived"]
            mean = self.majority_share * majority + (1 - self.majority_share) * minority
            return {"perceived": mean, "majority": majority, "minority": minority}

        both = zip(self.majority.scores(shown), self.minority.scores(shown), strict=True)
        return [[merged(*pair) for pair in zip(*rows, strict=True)] for rows in both]

    def _both(self, question: str, shown: Sequence[Candidates], rng: random.Random) -> tuple[list[Any], list[Any]]:
        luck = rng.getstate()
        majority = getattr(self.majority, question)(shown, rng)
        rng.setstate(luck)
        return majority, getattr(self.minority, question)(shown, rng)

    def _answers(self, question: str, shown: Sequence[Candidates], rng: random.Random) -> list[list[Any]]:
        answers = []
        for crowds in zip(*self._both(question, shown, rng), strict=True):
            asked = self._asked(rng)
            row = []
            for place in range(len(crowds[0])):
                if place and self.answered_by == "label":
                    asked = self._asked(rng)
                row.append(crowds[asked][place])
            answers.append(row)
        return answers

    def _asked(self, rng: random.Random) -> int:
        """0 for the majority, 1 for the minority."""
        return int(rng.random() >= self.majority_share)


@dataclass(frozen=True)
class _Luck:
    """All that is random in a sitting, drawn before anything is judged, so that every annotator has the same."""

    chance: Array
    """(answers,): uniform in [0, 1); an answer is yes where it is below the probability of yes."""
    noise: Array
    """(completions,): standard normal."""

    @classmethod
    def of_completions(cls, shown: Sequence[Candidates], rng: random.Random) -> _Luck:
        drawn = [(rng.random(), rng.gauss(0, 1)) for one in shown for _ in one.completions]
        chance, noise = np.array(drawn).reshape(-1, 2).T
        return cls(chance, noise)

    @classmethod
    def of_pairs(cls, shown: Sequence[Candidates], rng: random.Random) -> _Luck:
        for one in shown:
            if len(one.completions) != 2:
                raise ValueError(f"choose: prompt {one.id!r} has {len(one.completions)} completions; show pairs")
        drawn = np.array([(rng.random(), rng.gauss(0, 1), rng.gauss(0, 1)) for _ in shown]).reshape(-1, 3)
        return cls(drawn[:, 0], drawn[:, 1:].ravel())


def _in_shape(shown: Sequence[Candidates], flat: Any) -> list[Any]:
    """One slice of ``flat`` for each prompt."""
    ends = accumulate((len(one.completions) for one in shown), initial=0)
    return [flat[start:end] for start, end in pairwise(ends)]
