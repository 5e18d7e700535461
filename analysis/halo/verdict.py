"""Is a loss a human-aware loss (HALO)? A numerical check of the definition, with a counter-example where it is not.

The definition is number 3.4 of versions 2 to 4 of the KTO paper (Ethayarajh et al. 2024, arXiv 2402.01306, the form
published at ICML), with the quick test that version 5 adds. In short: a loss is a HALO if it is, up to a constant, the
mean of a_xy v(r - E_Q[r]) with a sign a_xy, an implied reward r proportional to log(pi_theta / pi_ref), a
reference-point distribution Q, and a human value v that never decreases and is concave for gains, i.e. for rewards
above the reference point. Four clauses follow from that, and are what is tried here:

1. where policy = reference the loss does not depend on the policy (all rewards are 0 then);
2. outcomes enter through the ratio of policy and reference;
3. for each class of completions one sign makes minus the loss nondecreasing in the implied reward, beside whatever else
   is in the batch;
4. with that sign it is concave for gains.

Clause 4 is tried in the log-ratio, as these versions define the reward, and where it fails there in the ratio
pi_theta / pi_ref itself: version 1 let the reward be anything that orders outcomes alike, and the paper's theorem that
PPO-Clip is a HALO needs that freedom, since A min(q, 1 + epsilon) is concave in q and convex in log q below the clip.
A pass is no proof: it says that no counter-example was found among the completions tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from analysis.halo.probe import NATS, TOKENS, Context, Probe
from analysis.text import number
from kto_bench.losses import Completions, Loss
from kto_bench.seeds import derive

VERSION = "Definition 3.4 of arXiv 2402.01306, versions 2 to 4, with the quick test of version 5"

Space = Literal["log-ratio", "ratio"]

REACH = 4.0
"""Implied rewards from -REACH to REACH are tried."""
STEP = 0.01
BESIDE = (0.0, -2.0, 2.0)
"""Implied rewards of what an outcome stands beside: the other completion of a pair, or the batch that the reference
point is read off. The plainest comes first, so that counter-examples are plain where they can be."""
EXPECTED = (0.0, -0.5, 0.5)
"""Expectations of the value head that are tried."""
POLICIES, EXAMPLES = 64, 12
ROUNDING = 1e-9
SILENT = 1e-12
"""A slope below this, per unit of the reward, is rounding."""

POINTS = {
    "other": "the other completion",
    "batch": "read off batches",
    "state": "the value head",
    "reference": "the reference model alone",
    "none": "none",
}
"""Kinds of reference points, and what they are called."""


@dataclass(frozen=True)
class Clause:
    """One clause of the definition; ``evidence`` is the counter-example in words and numbers, "" where it holds.

    ``asked`` is false where an earlier clause leaves nothing to ask: what is not monotone has no gains.
    """

    number: int
    title: str
    evidence: str = ""
    asked: bool = True

    @property
    def holds(self) -> bool:
        """Whether it was tried and no counter-example was found."""
        return self.asked and not self.evidence


@dataclass(frozen=True)
class Verdict:
    """What was found. ``point`` is a key of POINTS; ``space`` where clause 4 holds, None if it holds in neither.

    ``roles`` are the classes of completions that were taken for outcomes, ``signs`` the sign of each.
    """

    clauses: tuple[Clause, ...]
    point: str
    roles: tuple[str, ...]
    signs: dict[str, int]
    space: Space | None

    @property
    def halo(self) -> bool:
        """Whether all clauses hold."""
        return all(clause.holds for clause in self.clauses)

    @property
    def strict(self) -> bool:
        """Whether it is one with the reward as these versions define it, the log-ratio."""
        return self.halo and self.space == "log-ratio"

    @property
    def failed(self) -> Clause | None:
        """The first clause that fails."""
        return next((clause for clause in self.clauses if not clause.holds), None)


def verdict(loss: Loss) -> Verdict:
    """Try all clauses on ``loss``."""
    probe = Probe(loss, tokens=1, nats=TOKENS * NATS)  # of one token: then log-ratio and ratio are each one number
    constant, relative = _constant(loss), _relative(loss)
    point = _point(probe) if relative.holds else "none"
    # A loss of the difference of two rewards has one outcome, and the other completion is its reference point. Which of
    # the two is which, the definition leaves open; the paper takes the chosen one for the outcome.
    choices = [(role,) for role in probe.roles] if point == "other" else [probe.roles]
    tried = [_valued(probe, roles, point) for roles in choices]
    monotone, concave, roles, signs, space = next((t for t in tried if t[0].holds and t[1].holds), tried[0])
    return Verdict((constant, relative, monotone, concave), point, roles, signs, space)


# Clause 1


def _constant(loss: Loss) -> Clause:
    """The same completions under many policies, the reference being the policy each time."""
    title = "constant in the policy where policy = reference"
    batches = [
        _Batch.random(loss, torch.Generator().manual_seed(derive(0, "halo", str(index)))) for index in range(POLICIES)
    ]
    losses = torch.stack([batch.losses(loss) for batch in batches])
    if not torch.isfinite(losses).all():
        return Clause(1, title, "the loss is not finite where policy = reference")
    spread = losses.amax(0) - losses.amin(0)
    if bool((spread <= ROUNDING * (1 + losses.abs().amax(0))).all()):
        return Clause(1, title)
    worst = int(spread.argmax())
    low, high = (int(losses[:, worst].argmin()), int(losses[:, worst].argmax()))
    found = [f"{_n(losses[i, worst])} under a policy with {batches[i].log_probs(loss, worst)}" for i in (low, high)]
    return Clause(
        1,
        title,
        f"the loss of {batches[low].name(loss, worst)} is {found[0]} and {found[1]}, the reference being the policy",
    )


@dataclass(frozen=True)
class _Batch:
    """Random completions: uneven lengths, both classes; the reference is the policy unless they are ``apart``."""

    first: Completions
    second: Completions
    desirable: Tensor

    @classmethod
    def random(cls, loss: Loss, generator: torch.Generator, apart: bool = False) -> _Batch:
        def draw(lengths: Tensor) -> Completions:
            shape = (EXAMPLES, EXAMPLES)
            policy, reference = (
                -3.0 * torch.empty(shape, dtype=torch.float64).exponential_(generator=generator) for _ in range(2)
            )
            reference = reference if apart else policy.clone()
            return Completions(
                policy,
                torch.arange(EXAMPLES) < lengths[:, None],
                reference if loss.needs_reference else None,
                torch.zeros(shape, dtype=torch.float64) if loss.needs_values else None,
            )

        # Lengths and classes are those of the data, the same for every policy.
        count = torch.arange(EXAMPLES)
        return cls(draw(1 + count), draw(EXAMPLES - count), count % 2 == 0)

    def losses(self, loss: Loss) -> Tensor:
        """(n,) losses."""
        if loss.feedback == "paired":
            return loss(self.first, self.second).losses.detach()
        if loss.feedback == "binary":
            scalar = None
            if loss.has_reference_point:
                scalar = loss.reference_point(self.second if loss.needs_kl else None, {}).value
            return loss(self.first, self.desirable, scalar).losses.detach()
        return loss(self.first).losses.detach()

    def name(self, loss: Loss, index: int) -> str:
        """What to call an example."""
        tokens = f"{int(self.first.lengths[index])} tokens"
        if loss.feedback == "paired":
            return f"a pair of {int(self.first.lengths[index])} and {int(self.second.lengths[index])} tokens"
        if loss.feedback == "binary":
            return f"{'a desirable' if self.desirable[index] else 'an undesirable'} completion of {tokens}"
        return f"a completion of {tokens}"

    def log_probs(self, loss: Loss, index: int) -> str:
        """The policy's log-probability of an example, in words."""
        first, second = (_n(each.policy_log_prob[index]) for each in (self.first, self.second))
        return f"log π = {first} and {second} (chosen, rejected)" if loss.feedback == "paired" else f"log π = {first}"

    def shifted(self, nats: Tensor) -> _Batch:
        """The same with (n,) ``nats`` added to log pi of each first completion, in the policy and in the reference."""
        per_token = (nats / self.first.lengths)[:, None]
        reference = None if self.first.reference is None else self.first.reference + per_token
        return replace(self, first=replace(self.first, policy=self.first.policy + per_token, reference=reference))


# Clause 2


def _relative(loss: Loss) -> Clause:
    """Likelier completions, by the same factor under policy and reference."""
    title = "relative to a reference"
    generator = torch.Generator().manual_seed(derive(0, "halo", "relative"))
    batch = _Batch.random(loss, generator, apart=True)
    nats = -3.0 * torch.rand(EXAMPLES, dtype=torch.float64, generator=generator) - 1.0
    before, after = batch.losses(loss), batch.shifted(nats).losses(loss)
    change = (after - before).abs()
    if bool((change <= ROUNDING * (1 + before.abs())).all()):
        return Clause(2, title)
    worst = int(change.nan_to_num(math.inf).argmax())
    what = "policy and reference alike" if loss.needs_reference else "the policy (it has no reference to make up for)"
    which = "the chosen completion of " if loss.feedback == "paired" else ""
    return Clause(
        2,
        title,
        f"{_n(-nats[worst])} nats less under {what} for {which}{batch.name(loss, worst)} turn a loss of "
        f"{_n(before[worst])} into {_n(after[worst])}",
    )


def _point(probe: Probe) -> str:
    """What outcomes are compared with, besides the reference model: the key in POINTS."""
    at = torch.tensor([-0.2, 0.0, 0.3], dtype=torch.float64)
    shift = 0.1

    def same(role: str, context: Context) -> bool:
        there, here = probe.read(role, at + shift, context), probe.read(role, at)
        return bool(torch.allclose(there.loss, here.loss, rtol=0, atol=ROUNDING)) and bool((here.slope != 0).any())

    if probe.loss.feedback == "paired" and all(same(role, Context(other=shift)) for role in probe.roles):
        return "other"
    if probe.loss.has_reference_point and _batch_unit(probe, probe.roles[0]) is not None:
        return "batch"
    if probe.loss.needs_values:
        moved = (probe.read(role, at, Context(value=0.5)).slope for role in probe.roles)
        still = (probe.read(role, at).slope for role in probe.roles)
        if any(not torch.equal(a, b) for a, b in zip(moved, still, strict=True)):
            return "state"
    return "reference"


def _batch_unit(probe: Probe, role: str) -> float | None:
    """How many units of the loss's reference point a nat of log-ratio is worth: 1, or the implied reward of a nat.

    None where a change of the reference point is not made up for by one of the log-ratio.
    """
    at = torch.tensor([-0.2, 0.0, 0.3], dtype=torch.float64)
    here, start = probe.read(role, at).loss, probe.read_off(0.0)
    for unit in (1.0, probe.scale(role) or 1.0):
        there = probe.read(role, at + 0.1, Context(scalar=start + 0.1 * unit)).loss
        if torch.allclose(there, here, rtol=0, atol=ROUNDING):
            return unit
    return None


# Clauses 3 and 4


def _valued(
    probe: Probe, roles: tuple[str, ...], point: str
) -> tuple[Clause, Clause, tuple[str, ...], dict[str, int], Space | None]:
    """Clauses 3 and 4 with the completions of ``roles`` as outcomes."""
    signs: dict[str, int] = {}
    falls = ""
    for role in roles:
        signs[role], complaint = _sign(probe, role)
        falls = falls or complaint
    monotone = Clause(3, "monotone in the implied reward", falls)
    if falls:
        return monotone, Clause(4, "concave in gains", asked=False), roles, signs, None
    bends: dict[Space, str] = {}
    for space in ("log-ratio", "ratio"):
        found = (_bends(probe, role, signs[role], point, space) for role in roles)
        bends[space] = next(filter(None, found), "")
        if not bends[space]:
            return monotone, Clause(4, "concave in gains"), roles, signs, space
    return monotone, Clause(4, "concave in gains", bends["log-ratio"]), roles, signs, None


def _sign(probe: Probe, role: str) -> tuple[int, str]:
    """The sign with which minus the loss does not decrease, and why there is none, if there is none."""
    scale = probe.scale(role) or 1.0
    found: dict[int, str] = {}
    for context, at, slope in _slopes(probe, role):
        if not np.isfinite(slope).all():
            bad = _x(probe, role, float(at[~np.isfinite(slope)][0]))
            return 1, f"the slope of the {_class(role)} value is not a number where {bad}{_beside(context)}"
        here = {
            sign: _stretch(probe, role, at, sign * slope, context)
            for sign in (1, -1)
            if (sign * slope).max() > SILENT / scale
        }
        if len(here) == 2:  # within one context: the plainest counter-example
            found = here
            break
        found = here | found
    if len(found) == 2:
        return 1, f"raising the reward of {_article(role)} completion {found[1]}, but {found[-1]}"
    return (-1 if -1 in found else 1), ""


def _stretch(probe: Probe, role: str, at: np.ndarray, slope: np.ndarray, context: Context) -> str:
    """In words: the stretch of rewards around the largest slope on which all slopes are positive, and its losses."""
    top = int(slope.argmax())
    below, above = np.flatnonzero(slope[:top] <= 0), np.flatnonzero(slope[top:] <= 0)
    low = int(below[-1]) + 1 if len(below) else 0
    high = top + int(above[0]) if len(above) else len(at) - 1
    loss = probe.read(role, torch.from_numpy(at[[low, high]]), context).loss
    scale = probe.scale(role) or 1.0
    start, stop = (number(float(at[i]) * scale, 2, sign=True) for i in (low, high))
    way = "lowers" if loss[1] < loss[0] else "raises"
    return f"from {start} to {stop}{_beside(context)} {way} the loss from {_n(loss[0])} to {_n(loss[1])}"


def _bends(probe: Probe, role: str, sign: int, point: str, space: Space) -> str:
    """Where the value is not concave for gains; "" where it is."""
    for context, at, slope in _slopes(probe, role):
        gains = _gains(probe, role, at, context, point)
        u, s = at[gains], sign * slope[gains]
        if space == "ratio":
            s = s * np.exp(-u)
        if not np.isfinite(s).all():
            return f"the slope of the {_class(role)} value is not a number for gains{_beside(context)}"
        rises = np.diff(s) > SILENT * np.exp(-u[1:] if space == "ratio" else 0 * u[1:]) + ROUNDING * (
            np.abs(s[1:]) + np.abs(s[:-1])
        )
        if rises.any():
            start = int(np.flatnonzero(rises)[0])
            stop = start + int(np.argmin(np.append(rises[start:], False)))
            unit = "nat of log-ratio" if space == "log-ratio" else "unit of the ratio"
            return (
                f"the slope of the {_class(role)} value grows for gains, from {_n(s[start])} per {unit} where "
                f"{_x(probe, role, float(u[start]))} to {_n(s[stop])} where {_x(probe, role, float(u[stop]))}"
                f"{_beside(context)}"
            )
    return ""


def _slopes(probe: Probe, role: str) -> Iterator[tuple[Context, np.ndarray, np.ndarray]]:
    """In every context: log-ratios, in nats, and the slope of minus the loss there, per nat."""
    scale = probe.scale(role) or 1.0
    half = (np.arange(round(REACH / STEP)) + 0.5) * STEP / scale
    at = np.concatenate([-half[::-1], half])
    at = at[at < probe.largest]
    for context in _contexts(probe, role):
        reading = probe.read(role, torch.from_numpy(at), context)
        yield context, at, -reading.slope.numpy()


def _contexts(probe: Probe, role: str) -> list[Context]:
    loss = probe.loss
    scale = probe.scale(role) or 1.0
    beside = [reward / scale for reward in BESIDE]
    others = beside if loss.feedback == "paired" else [0.0]
    points = dict.fromkeys(probe.read_off(log_ratio) for log_ratio in beside) if loss.has_reference_point else [None]
    expected = EXPECTED if loss.needs_values else (0.0,)
    return [Context(*parts) for parts in product(others, points, expected)]


def _gains(probe: Probe, role: str, at: np.ndarray, context: Context, point: str) -> np.ndarray:
    """Where the outcome's reward, as the loss logs it, is above the reference point."""
    own = probe.reward(role, torch.from_numpy(at), context)
    if point == "other":
        roles = probe.roles
        other = probe.reward(role, torch.from_numpy(at), context, of=roles[1 - roles.index(role)])
        if own is not None and other is not None:
            return np.asarray((own > other).numpy())
        return np.asarray(at > context.other)
    if point == "batch":
        location = (context.scalar or 0.0) / (_batch_unit(probe, role) or 1.0)
        return np.asarray(at > location if own is None else own.numpy() > location * (probe.scale(role) or 1.0))
    return np.asarray(at > 0)


# Words


def _class(role: str) -> str:
    return f"{role} completion's" if role != "demonstrations" else "completion's"


def _article(role: str) -> str:
    return {"demonstrations": "a", "undesirable": "an undesirable"}.get(role, f"a {role}")


def _x(probe: Probe, role: str, log_ratio: float) -> str:
    """ "the implied reward is +0.40 (+4.00 nats)"."""
    scale = probe.scale(role)
    nats = f"{number(log_ratio, 2, sign=True)} nats"
    return f"the log-ratio is {nats}" if scale is None else f"it is {number(log_ratio * scale, 2, sign=True)} ({nats})"


def _beside(context: Context) -> str:
    """ " beside another completion at +2.00 nats"; "" where all else is at the reference point."""
    parts = []
    if context.other:
        parts.append(f" beside another completion at {number(context.other, 2, sign=True)} nats")
    if context.scalar:
        parts.append(f" with the reference point at {number(context.scalar, 2, sign=True)}")
    if context.value:
        parts.append(f" where {number(context.value, 2, sign=True)} was expected")
    return " and".join(parts)


def _n(value: Tensor | float) -> str:
    """Three significant digits or so, or what is no finite number in words."""
    size = abs(float(value))
    if not math.isfinite(size):
        return "not a number" if math.isnan(size) else "infinite"
    return number(float(value), 2 if size >= 1 or size == 0 else min(8, 2 - math.floor(math.log10(size))))
