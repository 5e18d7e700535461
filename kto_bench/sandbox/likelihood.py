"""How likely answers are by an annotator's parameters: what an annotator would say, its noise integrated out.

    P(thumb up)        = E_e  [F(V(u + b . s + sigma e) / tau)]
    P(first preferred) = E_ee'[F((V(u_1 + b . s_1 + sigma e) - V(u_2 + b . s_2 + sigma e')) / tau)]

V has a kink at the reference point, and under doubt another one where the completion that was misjudged would be
there. A quadrature over it converges slowly, so the integral over e is split at the kinks, and nodes are denser at the
ends of each piece. For parameters as those of the presets probabilities are exact to 3e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.stats import norm

from kto_bench.component import ConfigError
from kto_bench.feedback.types import Feedback
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.choice import with_density
from kto_bench.sandbox.perception import STYLE, Seen, impression
from kto_bench.sandbox.value import Array

POSITIVE = ("noise", "temperature", "loss_aversion", "risk_aversion", "risk_aversion_losses", "probability_weighting")
"""Parameters that are positive: derivatives are by their logarithms."""

_BIASES = tuple(f"{feature}_bias" for feature in STYLE)
_REACH = 5.0
"""Standard deviations of the noise that are looked at: all but 6e-7 of it."""
_POINTS = 16
"""By piece."""
_STEP = 1e-5
_GROUPS_AT_ONCE = 64
"""Pairs whose products of nodes are in memory together: few enough for a processor's cache."""


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


def probabilities(annotator: SimulatedAnnotator, answers: Answers) -> Array:
    """(n,): P(yes) of each group."""
    return with_slopes(annotator, answers, ())[0]


def with_slopes(annotator: SimulatedAnnotator, answers: Answers, free: Sequence[str]) -> tuple[Array, Array]:
    """(n,) and (len(free), n): P(yes) of each group, and its derivatives by the parameters ``free``.

    Those of ``POSITIVE`` are by the logarithm of the parameter. Neither doubt nor any parameter outside of
    ``POSITIVE``, the biases and the status quo has a derivative here.
    """
    if annotator.reference_point == "prompt_average":
        p, slopes = _of_a_difference(annotator, answers, free)
    elif answers.together == 1:
        p, slopes = _of_one(annotator, answers, free)
    else:
        p, slopes = _of_two(annotator, answers, free)
    return np.clip(p, 1e-12, 1 - 1e-12), slopes


def _of_one(annotator: SimulatedAnnotator, answers: Answers, free: Sequence[str]) -> tuple[Array, Array]:
    values = _Values.of(annotator, answers, free)
    strength = values.value / annotator.temperature
    return _mean(values.weights, strength, values.slopes / annotator.temperature, annotator)


def _of_a_difference(annotator: SimulatedAnnotator, answers: Answers, free: Sequence[str]) -> tuple[Array, Array]:
    """The reference point is the mean of the two, so that one is as much of a gain as the other is of a loss; the noise
    of their difference is one noise."""
    sure, swing, style = annotator.perceived(answers.seen), answers.seen.swing, answers.seen.style
    half = (sure[0::2] - sure[1::2]) / 2
    noise = annotator.noise / 2**0.5
    doubtful = (-swing[0::2], swing[1::2]) if annotator.doubt else ()
    nodes, weights = _nodes(half, noise, (np.zeros_like(half), *doubtful))
    by_outcome = _by_outcome(free, (style[0::2] - style[1::2]).T / 2, noise * nodes)
    by_outcome.pop("status_quo", None)
    first = _Values.at(annotator, half + noise * nodes, swing[0::2], free, by_outcome, weights)
    turned = {name: -one for name, one in by_outcome.items()}
    second = _Values.at(annotator, -(half + noise * nodes), swing[1::2], free, turned, weights)
    strength = (first.value - second.value) / annotator.temperature
    return _mean(weights, strength, (first.slopes - second.slopes) / annotator.temperature, annotator)


def _mean(weights: Array, strength: Array, by: Array, annotator: SimulatedAnnotator) -> tuple[Array, Array]:
    """F(strength), and its derivatives, averaged over the nodes (their first axis)."""
    chance, steep = with_density(strength, annotator.choice_rule)
    return np.sum(weights * chance, axis=0), np.einsum("qn,kqn->kn", weights * steep, by)


def _of_two(annotator: SimulatedAnnotator, answers: Answers, free: Sequence[str]) -> tuple[Array, Array]:
    """Each has a noise of its own. A derivative of V_1 - V_2 is a sum over either one's nodes, once F' is known."""
    values, temperature = _Values.of(annotator, answers, free), annotator.temperature
    first, second = (values.value[:, place::2].T / temperature for place in (0, 1))  # (n, q)
    w_first, w_second = (values.weights[:, place::2].T for place in (0, 1))
    p = np.empty(len(first))
    steep_first, steep_second = np.empty_like(first), np.empty_like(second)
    for start in range(0, len(p), _GROUPS_AT_ONCE):
        at = slice(start, start + _GROUPS_AT_ONCE)
        strength = first[at, :, None] - second[at, None, :]
        chance, steep = with_density(strength, annotator.choice_rule)
        p[at] = np.sum(w_first[at] * (chance @ w_second[at, :, None])[:, :, 0], axis=1)
        steep_first[at] = w_first[at] * (steep @ w_second[at, :, None])[:, :, 0]
        steep_second[at] = w_second[at] * (w_first[at, None, :] @ steep)[:, 0]
    by_first, by_second = (values.slopes[:, :, place::2] / temperature for place in (0, 1))  # (k, q, n)
    slopes = np.einsum("nq,kqn->kn", steep_first, by_first) - np.einsum("nq,kqn->kn", steep_second, by_second)
    return p, slopes


@dataclass(frozen=True)
class _Values:
    """V of completions at the nodes of their noise."""

    value: Array
    """(q, n)"""
    slopes: Array
    """(k, q, n): derivatives by the free parameters; by the temperature, of V / tau, times tau."""
    weights: Array
    """(q, n)"""

    @classmethod
    def of(cls, annotator: SimulatedAnnotator, answers: Answers, free: Sequence[str]) -> _Values:
        """Of each completion by itself, from a reference point that is the same for all."""
        seen, sure, style = answers.seen, annotator.perceived(answers.seen), answers.seen.style
        if annotator.reference_point == "policy_average":  # of a long sitting, in which noise averages out
            share = np.repeat(answers.count, answers.together) / (answers.together * answers.count.sum())
            outcome, style = sure - share @ sure, style - share @ style
        else:
            outcome = sure - annotator.status_quo
        kinks = (np.zeros_like(outcome), *((-seen.swing,) if annotator.doubt else ()))
        nodes, weights = _nodes(outcome, annotator.noise, kinks)
        by_outcome = _by_outcome(free, style.T, annotator.noise * nodes)
        return cls.at(annotator, outcome + annotator.noise * nodes, seen.swing, free, by_outcome, weights)

    @classmethod
    def at(
        cls,
        annotator: SimulatedAnnotator,
        outcome: Array,
        swing: Array,
        free: Sequence[str],
        by_outcome: dict[str, Array],
        weights: Array,
    ) -> _Values:
        """``by_outcome``: the derivatives of ``outcome`` by those parameters that it depends on."""
        value = annotator.value(outcome, swing)
        slopes = np.zeros((len(free), *value.shape))
        if by_outcome:
            steep = (annotator.value(outcome + _STEP, swing) - annotator.value(outcome - _STEP, swing)) / (2 * _STEP)
        for place, name in enumerate(free):
            if name == "temperature":
                slopes[place] = -value
            elif name in by_outcome:
                slopes[place] = steep * by_outcome[name]
            elif name in POSITIVE:
                up, down = (
                    annotator.model_copy(update={name: _current(annotator, name) * np.exp(sign * _STEP)})
                    for sign in (1, -1)
                )
                slopes[place] = (up.value(outcome, swing) - down.value(outcome, swing)) / (2 * _STEP)
        return cls(value, slopes, weights)


def _by_outcome(free: Sequence[str], style: Array, noise: Array) -> dict[str, Array]:
    derivatives = {**dict(zip(_BIASES, style, strict=True)), "noise": noise, "status_quo": np.array(-1.0)}
    return {name: one for name, one in derivatives.items() if name in free}


def _current(annotator: SimulatedAnnotator, name: str) -> float:
    """The value that is in force, where null says that it is another parameter's."""
    function = annotator.value_function
    return float(getattr(function, name) if hasattr(function, name) else getattr(annotator, name))


def _nodes(outcome: Array, noise: float, kinks: Sequence[Array]) -> tuple[Array, Array]:
    """(q, n) each: nodes and weights for the average over a standard normal e, of functions of outcome + noise * e that
    have ``kinks`` (n,)."""
    if noise == 0:
        return np.zeros((1, len(outcome))), np.ones((1, len(outcome)))
    inner = np.sort(np.clip((np.stack(kinks) - outcome) / noise, -_REACH, _REACH), axis=0)
    ends = np.full((1, len(outcome)), _REACH)
    edges = np.concatenate([-ends, inner, ends])
    size = np.diff(edges, axis=0)[:, None]
    nodes = (edges[:-1, None] + size * _INNER[:, None]).reshape(-1, len(outcome))
    weights = (size * _INNER_WEIGHTS[:, None]).reshape(nodes.shape) * norm.pdf(nodes)
    return nodes, weights / weights.sum(axis=0)


def _inner() -> tuple[Array, Array]:
    """Of a piece from 0 to 1: Gauss and Legendre's nodes, drawn to its ends by t = 3 s^2 - 2 s^3."""
    at, weights = leggauss(_POINTS)
    at = (at + 1) / 2
    return at**2 * (3 - 2 * at), weights / 2 * 6 * at * (1 - at)


_INNER, _INNER_WEIGHTS = _inner()
