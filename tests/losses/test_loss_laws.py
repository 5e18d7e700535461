"""Laws that hold for any numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from family import TRAINED, loss_of
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.base import Completions, Loss
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO

LOSSES = {name: loss_of(name) for name in TRAINED}
NOT_MONOTONE = {
    "apo_down": "it lowers the chosen completion, too, and the rejected one more",
    "cdpo": "it takes a share of the labels for wrong, so a margin can be too large",
    "csft": "it imitates what people disliked as well, after another control token",
    "ipo": "it aims at a margin, and lowers a larger one",
    "nca": "it bounds the reward of the chosen completion",
    "ppo": "the advantage of a token has the sign of what was not expected",
}
"""Losses whose gradient may lower what people liked, or raise what they did not, and why."""

WITH_REFERENCE = {name: loss for name, loss in LOSSES.items() if loss.needs_reference}

each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)
laws = settings(max_examples=25, deadline=None)


def gradients(batch: Any, scalar: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(scalar, [completions.policy for completions in batch.completions()]))


@each_loss
@laws
@given(seed=seeds, n=sizes)
def test_permutation_permutes(loss: Loss, seed: int, n: int, make_batch: Any) -> None:
    batch = make_batch(loss, n=n, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    mismatched = batch.mismatched
    permuted = replace(
        batch.rows(order),
        mismatched=Completions(
            mismatched.policy[order],
            mismatched.mask[order],
            None if mismatched.reference is None else mismatched.reference[order],
            None if mismatched.values is None else mismatched.values[order],
        ),
    )
    torch.testing.assert_close(permuted.output(loss).losses, batch.output(loss).losses[order])


@each_loss
@laws
@given(seed=seeds, n=sizes, left=st.integers(0, 3), right=st.integers(0, 3))
def test_padding_changes_nothing(loss: Loss, seed: int, n: int, left: int, right: int, make_batch: Any) -> None:
    def pad(completions: Completions) -> Completions:
        def widen(values: torch.Tensor, value: float) -> torch.Tensor:
            return torch.nn.functional.pad(values, (left, right), value=value)

        reference = None if completions.reference is None else widen(completions.reference, math.inf)
        values = None if completions.values is None else widen(completions.values, math.nan)
        return Completions(widen(completions.policy, math.nan), widen(completions.mask, False), reference, values)

    batch = make_batch(loss, n=n, seed=seed)
    padded = batch.change(pad)
    torch.testing.assert_close(padded.output(loss).losses, batch.output(loss).losses)
    for a, b in zip(
        gradients(batch, batch.loss(loss)),
        torch.autograd.grad(padded.loss(loss), [completions.policy for completions in batch.completions()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@each_loss
@laws
@given(seed=seeds, n=st.integers(2, 9), micro_batch=st.integers(1, 9))
def test_micro_batches_change_nothing(loss: Loss, seed: int, n: int, micro_batch: int, make_batch: Any) -> None:
    """The sum of the losses over the sum of the weights, and its gradient, do not depend on how a batch is split."""
    batch = make_batch(loss, n=n, seed=seed)
    batches = [batch.rows(index) for index in torch.arange(n).split(micro_batch)]
    parts = [part.output(loss) for part in batches]
    total = sum(part.losses.sum() for part in parts) / sum(part.weights(loss).sum() for part in batches)
    torch.testing.assert_close(total, batch.loss(loss))
    for a, b in zip(gradients(batch, total), gradients(batch, batch.loss(loss)), strict=True):
        torch.testing.assert_close(a, b)
    whole = batch.output(loss).statistics
    for name, (values, applies) in whole.items():
        assert sum(part.statistics[name][1].sum() for part in parts) == applies.sum()
        summed = sum(torch.where(v, x, 0.0).sum() for x, v in (part.statistics[name] for part in parts))
        torch.testing.assert_close(summed, torch.where(applies, values, 0.0).sum())


@pytest.mark.parametrize("loss", WITH_REFERENCE.values(), ids=WITH_REFERENCE)
@laws
@given(seed=seeds, constant=st.floats(-50, 50))
def test_only_the_ratio_to_the_reference_matters(loss: Loss, seed: int, constant: float, make_batch: Any) -> None:
    def shift(completions: Completions) -> Completions:
        assert completions.reference is not None
        return Completions(
            completions.policy + constant, completions.mask, completions.reference + constant, completions.values
        )

    batch = make_batch(loss, seed=seed)
    torch.testing.assert_close(batch.change(shift).loss(loss), batch.loss(loss), rtol=0, atol=1e-9)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_dpo_is_log_2_where_policy_equals_reference(seed: int, beta: float, make_batch: Any) -> None:
    dpo = DPO(beta=beta)
    batch = make_batch(dpo, seed=seed).change(lambda c: Completions(c.policy, c.mask, c.policy.detach()))
    torch.testing.assert_close(batch.output(dpo).losses, torch.full((6,), math.log(2), dtype=torch.float64))


@laws
@given(seed=seeds, beta=st.floats(0.01, 10), weights=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)))
def test_kto_is_half_its_weight_where_policy_equals_reference(
    seed: int, beta: float, weights: tuple[float, float], make_batch: Any
) -> None:
    kto = KTO(beta=beta, desirable_weight=weights[0], undesirable_weight=weights[1])
    batch = make_batch(kto, seed=seed).change(lambda c: Completions(c.policy, c.mask, c.policy.detach()))
    point = batch.reference_point(kto)
    assert point.value == point.statistics["kl_raw"] == 0
    expected = [weights[0] / 2 if desirable else weights[1] / 2 for desirable in batch.columns[1]]
    torch.testing.assert_close(batch.output(kto).losses, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("weight", ["desirable_weight", "undesirable_weight"])
@laws
@given(seed=seeds)
def test_kto_without_weight_ignores_a_class(weight: str, seed: int, make_batch: Any) -> None:
    """Exactly: zero loss and zero gradient, even where its log-ratio is infinite."""
    kto = KTO.model_validate({weight: 0})
    batch = make_batch(kto, seed=seed)
    completions, desirable = batch.columns
    ignored = desirable if weight == "desirable_weight" else ~desirable
    with torch.no_grad():
        completions.policy[ignored.nonzero()[:1]] = -math.inf
    output = batch.output(kto)
    assert (output.losses[ignored] == 0).all()
    assert (output.losses[~ignored] > 0).all()
    (gradient,) = gradients(batch, output.losses.sum())
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored][completions.mask[~ignored]] != 0).all()
    assert (batch.weights(kto) == 1).all()


@laws
@given(seed=seeds, n=sizes)
def test_kto_reference_point_carries_no_gradient(seed: int, n: int, make_batch: Any) -> None:
    """Mismatched pairs get no gradient, although raising the reference point would change the loss."""
    kto = KTO()
    batch = make_batch(kto, n=n, seed=seed)
    mismatched = batch.mismatched.policy
    assert mismatched.requires_grad
    assert torch.autograd.grad(batch.loss(kto), mismatched, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(NOT_MONOTONE)))
@laws
@given(seed=seeds)
def test_better_is_lower(name: str, seed: int, make_batch: Any) -> None:
    """The gradient never lowers what people liked, nor raises what they did not; and it is not zero everywhere."""
    loss = LOSSES[name]
    batch = make_batch(loss, seed=seed)
    found = gradients(batch, batch.output(loss).losses.sum())
    for position, gradient in enumerate(found):
        liked = batch.columns[1] if loss.feedback == "binary" else torch.full((6,), position == 0)
        signs = torch.where(liked, -1.0, 1.0)[:, None].expand_as(gradient)
        assert (gradient * signs >= 0).all()
    assert any((gradient != 0).any() for gradient in found)
