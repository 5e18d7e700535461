"""The parameters of an annotator from what it answered, by maximum likelihood.

    python -m kto_bench.sandbox.recovery feedback=sandbox_binary annotator@feedback.annotator=median_human
    python -m kto_bench.sandbox.recovery feedback.pairs=20000 --free loss_aversion temperature

The probability of an answer is that of ``annotators.py`` with the noise integrated out, by Gauss-Hermite quadrature:

    P(thumb up)        = E_e  [F(V(u + b . s + sigma e) / tau)]
    P(first preferred) = E_ee'[F((V(u_1 + b . s_1 + sigma e) - V(u_2 + b . s_2 + sigma e')) / tau)]

Gold utility and style are known, so this is a regression with a few parameters; completions that look alike to the
annotator are counted together. Intervals are Wald's from the expected (Fisher) information; parameters that are
positive are estimated, and their intervals built, on the log scale.

What can be told apart (docs/annotators.md says why):

* ``noise`` and ``temperature`` hardly: both blur. One of them has to be known.
* ``doubt`` and ``probability_weighting`` not: only the weighted doubt is seen. Doubt has to be known.
* from choices with ``prompt_average``, ``loss_aversion`` and ``temperature`` not: only (1 + lambda) / tau is seen, and
  the status quo is not used.
* ``last_seen`` is refused, since one noise enters two neighbours and the likelihood is no product any more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.polynomial.hermite_e import hermegauss
from omegaconf import OmegaConf
from scipy.optimize import minimize
from scipy.stats import norm

from kto_bench.component import ConfigError, build
from kto_bench.feedback.types import Feedback, FeedbackSource
from kto_bench.sandbox.agreement import CONF
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.choice import probability
from kto_bench.sandbox.perception import STYLE, Seen, impression
from kto_bench.sandbox.value import Array

POSITIVE = ("noise", "temperature", "loss_aversion", "risk_aversion", "risk_aversion_losses", "probability_weighting")
ANY = ("status_quo", *(f"{feature}_bias" for feature in STYLE))
FREE = ("temperature", "loss_aversion", "risk_aversion", "status_quo", *ANY[1:])
"""What is estimated unless something else is asked for."""

_NODES, _WEIGHTS = hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_STEP = 1e-4
_NOT_IDENTIFIED = 1e10
"""Condition number of the information, in units of each parameter's own, from which nothing is told apart."""


@dataclass(frozen=True)
class Answers:
    """What an annotator answered, counted by what it looked at.

    A group is one completion (thumbs: m = 1) or two (choices: m = 2) as the annotator sees them.
    """

    seen: Seen
    """n groups of m completions, group by group."""
    yes: Array
    """(n,): thumbs up, or choices of the first."""
    count: Array
    """(n,): all answers."""

    @property
    def together(self) -> int:
        """m."""
        return len(self.seen) // len(self.count)

    @classmethod
    def of(cls, feedback: Feedback) -> Answers:
        """The answers behind paired or binary feedback. Which of a pair was shown first is not known, and need not be:
        the chosen one counts as the first."""
        if feedback.kind == "demonstrations":
            raise ConfigError("recovery: demonstrations are no answers; give paired or binary feedback")
        groups: dict[tuple[Any, ...], list[int]] = {}
        for row in feedback.rows:
            asked = row.prompt[-1]["content"]
            texts = (row.completion,) if feedback.kind == "binary" else (row.chosen, row.rejected)
            key = tuple(impression(asked, text) for text in texts)
            yes = bool(row.label) if feedback.kind == "binary" else True
            if len(key) == 2 and (key[1], key[0]) in groups:
                key, yes = (key[1], key[0]), False
            counts = groups.setdefault(key, [0, 0])
            counts[0] += yes
            counts[1] += 1
        yes_of, count_of = np.array(list(groups.values()), dtype=float).T
        return cls(Seen.of([one for key in groups for one in key]), yes_of, count_of)


@dataclass(frozen=True)
class Estimate:
    """Of one parameter, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Recovered:
    """The most likely annotator."""

    annotator: SimulatedAnnotator
    estimates: dict[str, Estimate]
    log_likelihood: float
    answers: int


def recover(
    answers: Answers, known: SimulatedAnnotator, free: Sequence[str] = FREE, confidence: float = 0.95
) -> Recovered:
    """Estimate the parameters ``free``; all others are those of ``known``, from which nothing else is taken.

    Raises ConfigError for parameters that cannot be told apart from these answers.
    """
    _check(answers, known, free)
    model = _Model(answers, known, tuple(free))
    start = np.array([_START[name] for name in free])
    found = minimize(
        lambda at: model.evaluate(at).loss,
        start,
        jac=lambda at: model.evaluate(at).slope,
        hess=lambda at: model.evaluate(at).information,
        method="trust-exact",
        options={"gtol": 1e-7, "maxiter": 200},
    )
    information = model.evaluate(found.x).information * answers.count.sum()
    scale = np.sqrt(np.clip(np.diag(information), 1e-12, None))
    if np.linalg.cond(information / np.outer(scale, scale)) > _NOT_IDENTIFIED or scale.min() <= 1e-5:
        raise ConfigError(
            f"free: these answers do not tell {', '.join(free)} apart; take one out (docs/annotators.md says which "
            "go together)"
        )
    errors = norm.ppf((1 + confidence) / 2) * np.sqrt(np.diag(np.linalg.inv(information)))
    estimates = {
        name: Estimate(*(_scale(name)(value) for value in (at, at - error, at + error)))
        for name, at, error in zip(free, found.x.tolist(), errors.tolist(), strict=True)
    }
    total = float(-found.fun * answers.count.sum())
    return Recovered(model.annotator(found.x), estimates, total, int(answers.count.sum()))


@dataclass(frozen=True)
class _Point:
    loss: float
    """Negative log-likelihood by answer."""
    slope: Array
    information: Array


class _Model:
    """The likelihood of ``free`` parameters, those that are positive on the log scale."""

    def __init__(self, answers: Answers, known: SimulatedAnnotator, free: tuple[str, ...]) -> None:
        self._answers, self._known, self._free = answers, known, free
        self._last: tuple[bytes, _Point] | None = None

    def annotator(self, at: Array) -> SimulatedAnnotator:
        changes = {name: _scale(name)(value) for name, value in zip(self._free, at.tolist(), strict=True)}
        return self._known.model_copy(update=changes)

    def evaluate(self, at: Array) -> _Point:
        """The point at ``at``, with derivatives of the probabilities by central differences."""
        if self._last is not None and self._last[0] == at.tobytes():
            return self._last[1]
        yes, count = self._answers.yes, self._answers.count
        p = probabilities(self.annotator(at), self._answers)
        slopes = np.empty((len(at), len(p)))
        for place in range(len(at)):
            step = np.zeros(len(at))
            step[place] = _STEP
            ends = [probabilities(self.annotator(at + sign * step), self._answers) for sign in (1, -1)]
            slopes[place] = (ends[0] - ends[1]) / (2 * _STEP)
        total, spread = count.sum(), p * (1 - p)
        point = _Point(
            loss=float(-(yes @ np.log(p) + (count - yes) @ np.log1p(-p)) / total),
            slope=-slopes @ ((yes - count * p) / spread) / total,
            information=(slopes * (count / spread)) @ slopes.T / total,
        )
        self._last = (at.tobytes(), point)
        return point


def probabilities(annotator: SimulatedAnnotator, answers: Answers) -> Array:
    """(n,): P(yes) of each group, the noise integrated out."""
    together, sure = answers.together, annotator.perceived(answers.seen)
    swing = answers.seen.swing
    if annotator.reference_point == "prompt_average":  # of two, so only their difference counts, and its noise
        difference = (sure[0::2] - sure[1::2]) + annotator.noise * 2**0.5 * _NODES[:, None]
        first, second = annotator.value(difference / 2, swing[0::2]), annotator.value(-difference / 2, swing[1::2])
        return _mean(annotator, first - second)
    if annotator.reference_point == "policy_average":  # of a long sitting, in which noise averages out
        reference = float(np.repeat(answers.count, together) @ sure / (together * answers.count.sum()))
    else:
        reference = annotator.status_quo
    values = annotator.value(sure - reference + annotator.noise * _NODES[:, None], swing)
    if together == 1:
        return _mean(annotator, values)
    return _mean(annotator, values[:, None, 0::2] - values[None, :, 1::2])


def _mean(annotator: SimulatedAnnotator, strength: Array) -> Array:
    """F of values whose first axes are nodes, averaged over these."""
    p = probability(strength / annotator.temperature, annotator.choice_rule)
    while p.ndim > 1:
        p = np.tensordot(_WEIGHTS, p, 1)
    return np.clip(p, 1e-12, 1 - 1e-12)


_START: Mapping[str, float] = {
    "noise": np.log(0.25),
    "temperature": np.log(0.5),
    "loss_aversion": 0.0,
    "risk_aversion": 0.0,
    "risk_aversion_losses": 0.0,
    "probability_weighting": 0.0,
    **dict.fromkeys(ANY, 0.0),
}
"""Where the search begins, on each parameter's own scale: an unbiased annotator with linear values."""


def _scale(name: str) -> Callable[[float], float]:
    return (lambda at: float(np.exp(at))) if name in POSITIVE else float


def _check(answers: Answers, known: SimulatedAnnotator, free: Sequence[str]) -> None:
    allowed = (*POSITIVE, *ANY)
    for name in free:
        if name not in allowed:
            raise ConfigError(f"free: {name!r} cannot be estimated; allowed: {', '.join(allowed)}")
    chosen = set(free)
    if not free or len(chosen) < len(free):
        raise ConfigError(f"free: {list(free)} is not allowed; give one parameter or more, each once")
    if known.reference_point == "last_seen":
        raise ConfigError(
            "reference_point: last_seen cannot be recovered, because the answers depend on each other; choose "
            "status_quo, prompt_average or policy_average"
        )
    if {"noise", "temperature"} <= chosen:
        raise ConfigError("free: noise and temperature both blur the answers; give one of them a known value")
    if "probability_weighting" in chosen and known.doubt == 0:
        raise ConfigError("free: probability_weighting weighs nothing where doubt is 0; set doubt, or take it out")
    if "status_quo" in chosen and known.reference_point != "status_quo":
        raise ConfigError(f"free: status_quo is not used where reference_point is {known.reference_point}; take it out")
    if answers.together == 1 and known.reference_point == "prompt_average":
        raise ConfigError(
            "reference_point: with prompt_average the thumbs of a prompt depend on each other; give paired feedback"
        )
    if known.reference_point == "prompt_average" and {"loss_aversion", "temperature"} <= chosen:
        raise ConfigError(
            "free: with prompt_average choices show (1 + loss_aversion) / temperature only; take one of them out"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: annotate the feedback that the overrides choose, and recover who annotated it."""
    parser = argparse.ArgumentParser(prog="python -m kto_bench.sandbox.recovery", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE", help="of the configuration, as for kto-bench")
    parser.add_argument("--free", nargs="+", metavar="FIELD", help=f"what to estimate; by default: {', '.join(FREE)}")
    chosen = parser.parse_args(arguments)
    try:
        source = _source(chosen.overrides)
        truth = getattr(source, "annotator", None)
        if not isinstance(truth, SimulatedAnnotator) or getattr(source, "scores", None) is not None:
            raise ConfigError(
                f"feedback: parameters are known, and recovered, of a SimulatedAnnotator's thumbs and choices; this is "
                f"{source.name!r} by {type(truth).__name__}{' with scores' if truth else ''}"
            )
        free = chosen.free or [name for name in FREE if _is_seen(name, truth)]
        found = recover(Answers.of(source.load()), truth, free)
    except ConfigError as error:
        parser.error(str(error))
    print(f"{found.answers} answers; log-likelihood {found.log_likelihood:.1f}")
    print(f"{'parameter':<22} {'true':>8} {'estimate':>9}   95% interval")
    for name, one in found.estimates.items():
        true = getattr(truth.value_function, name) if name.startswith(("risk", "prob")) else getattr(truth, name)
        outside = "" if one.low <= true <= one.high else "   does not hold the true value"
        print(f"{name:<22} {true:>8.3f} {one.value:>9.3f}   [{one.low:.3f}, {one.high:.3f}]{outside}")


def _is_seen(name: str, annotator: SimulatedAnnotator) -> bool:
    point = annotator.reference_point
    return not (name == "status_quo" and point != "status_quo") and not (
        name == "temperature" and point == "prompt_average"
    )


def _source(overrides: Sequence[str]) -> FeedbackSource:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("config", list(overrides)).feedback
    return build(OmegaConf.to_container(node, resolve=True), FeedbackSource, "feedback")


if __name__ == "__main__":
    main()
