"""What may be tried when a loss is tuned: its space, and the settings that are drawn from it.

A loss's space is the block ``space`` of its file in ``conf/loss/``, and is no part of the loss: parameters of the loss
or of ``train``, each with the range that its authors searched or recommend.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kto_bench.component import ConfigError
from kto_bench.seeds import derive
from kto_bench.training.config import TrainConfig

DIGITS = 3
"""Significant digits of a value that is drawn from a range, so that it can be read and typed."""
ATTEMPTS = 1000

Settings = dict[str, Any]


class Space(BaseModel):
    """The values of one parameter: a list of them, or the range from ``low`` to ``high``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[float, ...] | None = Field(None, min_length=1, description="each is as likely as any other")
    low: float | None = None
    high: float | None = None
    scale: Literal["log", "linear"] = Field("log", description="log: every factor is as likely as any other")

    @model_validator(mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        if isinstance(given, Space | Mapping):
            return given
        if isinstance(given, list | tuple):
            return {"values": given}
        raise ValueError(
            f"{given!r} is no space; give a list of values, or {{low: NUMBER, high: NUMBER}}, with scale: linear where "
            "a range is not to be drawn from by factors"
        )

    @model_validator(mode="after")
    def _one_of_both(self) -> Space:
        if self.values is not None and self.low is None and self.high is None:
            return self
        if self.values is not None or self.low is None or self.high is None:
            raise ValueError("give either values, or both low and high")
        if not self.low < self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError(
                f"low {self.low:g} and high {self.high:g} are not allowed: choose low < high, and low > 0 unless scale "
                "is linear"
            )
        return self

    def times(self, factor: float) -> Space:
        """All values multiplied by ``factor``."""
        if self.values is not None:
            return Space(values=tuple(_rounded(value * factor) for value in self.values))
        assert self.low is not None
        assert self.high is not None
        return Space(low=self.low * factor, high=self.high * factor, scale=self.scale)

    def draw(self, rng: random.Random) -> float:
        """One value."""
        if self.values is not None:
            return rng.choice(self.values)
        assert self.low is not None
        assert self.high is not None
        if self.scale == "log":
            return _rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return _rounded(rng.uniform(self.low, self.high))


class Tune(BaseModel):
    """How a sweep is tuned. Further fields name parameters: see ``chosen``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    trials: int = Field(ge=1, description="settings that are tried for each loss and start; the first is the default")
    seed: int = Field(1000, ge=0, description="the one seed of all trials; none of the seeds of the sweep")
    score: str = Field(
        "preference", description="preference (the win rate on validation prompts), or a score of the judge: utility"
    )
    scale: dict[str, float] = Field({}, description="factors by parameter, for models that need other rates than 7B")

    @model_validator(mode="after")
    def _spaces(self) -> Tune:
        for name, value in self.chosen.items():
            if value not in ("space", "fixed"):
                try:
                    Space.model_validate(value)
                except ValueError as error:
                    reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error
                    raise ValueError(
                        f"{name}: {value!r} is not allowed: give 'space' (as the loss has it), 'fixed' (not tuned), or "
                        f"a space for all losses that have this parameter ({reason})"
                    ) from error
        for name, factor in self.scale.items():
            if not factor > 0:
                raise ValueError(f"scale.{name}: {factor:g} is not allowed: choose a factor above 0")
        return self

    @property
    def chosen(self) -> dict[str, Any]:
        """By parameter: "space" (the same as not naming it), "fixed", or a space that replaces that of every loss."""
        return dict(self.model_extra or {})

    def space_of(self, loss: str, documented: Mapping[str, Space]) -> dict[str, Space]:
        """What is tuned of ``loss``, by parameter. Raises ConfigError where nothing is."""
        if not documented:
            raise ConfigError(
                f"tune: the loss {loss!r} has no space; add a block `space` to conf/loss/{loss}.yaml, such as "
                "space: {learning_rate: {low: 1e-7, high: 1e-5}}, or leave the loss out of the sweep"
            )
        found = {}
        for name, space in documented.items():
            choice = self.chosen.get(name, "space")
            if choice == "space":
                found[name] = space.times(self.scale[name]) if name in self.scale else space
            elif choice != "fixed":
                found[name] = Space.model_validate(choice)
        if not found and self.trials > 1:
            raise ConfigError(
                f"tune: every parameter of the space of {loss!r} is 'fixed' ({', '.join(documented)}), and there are "
                f"{self.trials} trials; leave one to be tuned"
            )
        return found


def draws(loss: str, tune: Tune, space: Mapping[str, Space], default: Settings) -> list[Settings]:
    """The settings of every trial, by parameter; the first is ``default``, what the loss would be without tuning.

    Every value has a stream of its own, named by loss, parameter and trial: another loss, parameter or trial changes no
    value that was drawn before. No setting is drawn twice. Raises ConfigError where the space has too few of them.
    """
    found = [{name: default[name] for name in space}]
    for trial in range(1, tune.trials):
        for attempt in range(ATTEMPTS):
            settings = {
                name: one.draw(random.Random(derive(tune.seed, "tuning", loss, name, trial, attempt)))
                for name, one in space.items()
            }
            if settings not in found:
                found.append(settings)
                break
        else:
            raise ConfigError(
                f"tune.trials: {tune.trials} is more than the space of {loss!r} holds, which is {trial} different "
                f"settings of {', '.join(space)}; lower it, or give a wider space"
            )
    return found


def field_of(parameter: str) -> str:
    """Where a parameter of a space is in the configuration."""
    return f"train.{parameter}" if parameter in TrainConfig.model_fields else f"loss.{parameter}"


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
