"""The parameters of an annotator from what it answered, by maximum likelihood.

    python -m kto_bench.sandbox.recovery feedback=sandbox_binary annotator@feedback.annotator=median_human
    python -m kto_bench.sandbox.recovery feedback.pairs=20000 --free loss_aversion temperature

Gold utility and style are known, so this is a regression with a few parameters, whose likelihood is that of
likelihood.py; completions that look alike to the annotator are counted together. Intervals are Wald's from the expected
(Fisher) information; parameters that are positive are estimated, and their intervals built, on the log scale.

What can be told apart (docs/annotators.md says why):

* ``noise`` and ``temperature`` hardly: both blur. One of them has to be known.
* ``doubt`` and ``probability_weighting`` not: only the weighted doubt is seen. Doubt has to be known.
* from choices hardly ``risk_aversion`` and the ``status_quo`` beside ``loss_aversion`` and ``temperature``.
* from choices with ``prompt_average``, ``loss_aversion`` and ``temperature`` not: only (1 + lambda) / tau is seen, and
  the status quo is not used.
* ``last_seen`` is refused, since one noise enters two neighbours and the likelihood is no product any more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from scipy.optimize import minimize
from scipy.stats import norm

from kto_bench.component import ConfigError, build
from kto_bench.feedback.types import FeedbackSource
from kto_bench.sandbox.agreement import CONF
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.likelihood import POSITIVE, Answers, with_slopes
from kto_bench.sandbox.perception import STYLE
from kto_bench.sandbox.value import Array

ANY = ("status_quo", *(f"{feature}_bias" for feature in STYLE))
FROM_CHOICES = ("temperature", "loss_aversion", *ANY[1:])
FROM_THUMBS = (*FROM_CHOICES, "risk_aversion", "status_quo")
"""What is estimated unless something else is asked for."""

_NOT_IDENTIFIED = 1e10
"""Condition number of the information, in units of each parameter's own, from which nothing is told apart."""
_CLOSE = 0.01
"""Standard errors: how near the most likely parameters have to be."""


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
    answers: Answers, known: SimulatedAnnotator, free: Sequence[str] = (), confidence: float = 0.95
) -> Recovered:
    """Estimate the parameters ``free``; all others are those of ``known``, from which nothing else is taken.

    No ``free``: those that ``known`` has among ``FROM_CHOICES`` or ``FROM_THUMBS``. Raises ConfigError for parameters
    that cannot be told apart from these answers.
    """
    free = tuple(free) or usual(answers, known)
    _check(answers, known, free)
    model, total = _Model(answers, known, free), float(answers.count.sum())
    found = minimize(
        lambda at: model.evaluate(at).loss,
        np.array([_START[name] for name in free]),
        jac=lambda at: model.evaluate(at).slope,
        hess=lambda at: model.evaluate(at).information,
        method="trust-exact",
        options={"gtol": 1e-7, "maxiter": 200, "initial_trust_radius": 0.3, "max_trust_radius": 0.5},
    )
    point = model.evaluate(found.x)
    scale = np.sqrt(np.clip(np.diag(point.information), 1e-12, None))
    if np.linalg.cond(point.information / np.outer(scale, scale)) > _NOT_IDENTIFIED or scale.min() <= 1e-5:
        raise ConfigError(_not_told_apart(free))
    covariance = np.linalg.inv(point.information * total)
    # Of the search it does not count why it ended, but how far the likelihood's peak still is.
    if not total * float(point.slope @ covariance @ point.slope) * total < _CLOSE**2:
        raise ConfigError(f"{_not_told_apart(free)}: the search found no peak of the likelihood ({found.message})")
    errors = norm.ppf((1 + confidence) / 2) * np.sqrt(np.diag(covariance))
    estimates = {
        name: Estimate(*(_scale(name)(value) for value in (at, at - error, at + error)))
        for name, at, error in zip(free, found.x.tolist(), errors.tolist(), strict=True)
    }
    return Recovered(model.annotator(found.x), estimates, -point.loss * total, int(total))


def usual(answers: Answers, known: SimulatedAnnotator) -> tuple[str, ...]:
    """What is estimated of such answers unless something else is asked for."""
    of_kind = FROM_THUMBS if answers.together == 1 else FROM_CHOICES
    unseen = {"status_quo": (), "prompt_average": ("status_quo", "temperature")}
    return tuple(name for name in of_kind if name not in unseen.get(known.reference_point, ("status_quo",)))


def _not_told_apart(free: Sequence[str]) -> str:
    return (
        f"free: these answers do not tell {', '.join(free)} apart; take one out (docs/annotators.md says which go "
        "together)"
    )


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
        """The likelihood at ``at``; asked for again there, it is not computed again."""
        if self._last is not None and self._last[0] == at.tobytes():
            return self._last[1]
        yes, count = self._answers.yes, self._answers.count
        p, slopes = with_slopes(self.annotator(at), self._answers, self._free)
        total, spread = count.sum(), p * (1 - p)
        point = _Point(
            loss=float(-(yes @ np.log(p) + (count - yes) @ np.log1p(-p)) / total),
            slope=-slopes @ ((yes - count * p) / spread) / total,
            information=(slopes * (count / spread)) @ slopes.T / total,
        )
        self._last = (at.tobytes(), point)
        return point


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
    if len(chosen) < len(free):
        raise ConfigError(f"free: {list(free)} is not allowed; give each parameter once")
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
    usually = f"by default of thumbs {', '.join(FROM_THUMBS)}; of choices {', '.join(FROM_CHOICES)}"
    parser.add_argument("--free", nargs="+", metavar="FIELD", help=f"what to estimate; {usually}")
    chosen = parser.parse_args(arguments)
    try:
        source = _source(chosen.overrides)
        truth = getattr(source, "annotator", None)
        if not isinstance(truth, SimulatedAnnotator) or getattr(source, "scores", None) is not None:
            raise ConfigError(
                f"feedback: parameters are known, and recovered, of a SimulatedAnnotator's thumbs and choices; this is "
                f"{source.name!r} by {type(truth).__name__}{' with scores' if truth else ''}"
            )
        found = recover(Answers.of(source.load()), truth, chosen.free or ())
    except ConfigError as error:
        parser.error(str(error))
    print(f"{found.answers} answers; log-likelihood {found.log_likelihood:.1f}")
    print(f"{'parameter':<22} {'true':>8} {'estimate':>9}   95% interval")
    for name, one in found.estimates.items():
        true = getattr(truth.value_function, name) if name.startswith(("risk", "prob")) else getattr(truth, name)
        outside = "" if one.low <= true <= one.high else "   does not hold the true value"
        print(f"{name:<22} {true:>8.3f} {one.value:>9.3f}   [{one.low:.3f}, {one.high:.3f}]{outside}")


def _source(overrides: Sequence[str]) -> FeedbackSource:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("config", list(overrides)).feedback
    return build(OmegaConf.to_container(node, resolve=True), FeedbackSource, "feedback")


if __name__ == "__main__":
    main()
