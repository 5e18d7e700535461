"""What every loss of ``conf/loss`` owes the training loop; a new YAML file is tested without an edit here."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from family import NODES, TRAINED, loss_node, loss_of

from kto_bench.component import ConfigError, build
from kto_bench.losses.base import Completions, FeedbackKind, Loss
from kto_bench.losses.kto import KTO

each_loss = pytest.mark.parametrize("loss", TRAINED, indirect=True)


@pytest.fixture
def loss(request: pytest.FixtureRequest) -> Loss:
    return loss_of(request.param)


def test_the_losses_are_found() -> None:
    assert {"sft", "dpo", "kto", "simpo"} <= set(TRAINED)
    assert set(NODES) - set(TRAINED) == {"none"}


@pytest.mark.parametrize("name", NODES)
def test_name_is_that_of_the_file(name: str) -> None:
    assert NODES[name]["name"] == name


@pytest.mark.parametrize("name", TRAINED)
def test_yaml_shows_every_field_at_the_default_of_the_class(name: str) -> None:
    loss = build(loss_node(name), Loss, "loss")
    assert set(loss_node(name)) - {"_target_"} == set(type(loss).model_fields)
    assert loss == type(loss)()


@pytest.mark.parametrize("name", TRAINED)
def test_an_unknown_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"loss\.betta"):
        build({**loss_node(name), "betta": 0.1}, Loss, "loss")


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", [name for name in TRAINED if "beta" in NODES[name]])
def test_a_beta_that_trains_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=r"loss\.beta"):
        build({**loss_node(name), "beta": value}, Loss, "loss")


def test_kto_with_no_weight_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"both 0.*raise one"):
        build({**loss_node("kto"), "desirable_weight": 0, "undesirable_weight": 0}, Loss, "loss")
    with pytest.raises(ConfigError, match=r"loss\.desirable_weight: -1"):
        build({**loss_node("kto"), "desirable_weight": -1}, Loss, "loss")


@each_loss
def test_declarations(loss: Loss) -> None:
    assert loss.feedback in get_args(FeedbackKind)
    assert not loss.has_reference_point or loss.feedback == "binary"
    assert not loss.sync_every or loss.needs_reference
    assert not loss.control_tokens or loss.feedback == "binary"
    assert len(set(loss.control_tokens or ("", " "))) == 2
    assert type(loss).__doc__
    assert all(field.description for field in type(loss).model_fields.values())


@each_loss
def test_fields_are_the_identity(loss: Loss) -> None:
    assert type(loss).model_validate(loss.model_dump(mode="json")) == loss


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7])
def test_output(loss: Loss, n: int, dtype: torch.dtype, make_batch: Any) -> None:
    batch = make_batch(loss, n=n, dtype=dtype)
    output = batch.output(loss)
    weights = batch.weights(loss)
    assert output.losses.shape == weights.shape == (n,)
    assert output.losses.dtype == dtype
    assert output.losses.isfinite().all()
    assert output.losses.requires_grad
    assert not weights.requires_grad
    assert (weights > 0).all()
    assert output.statistics
    for values, applies in output.statistics.values():
        assert values.shape == applies.shape == (n,)
        assert applies.dtype == torch.bool
        assert values.isfinite().all()
        assert not values.requires_grad


@each_loss
def test_reference_point(loss: Loss, make_batch: Any) -> None:
    batch = make_batch(loss)
    if not loss.has_reference_point:
        with pytest.raises(TypeError, match="no reference point"):
            loss.reference_point(batch.mismatched, {})
        return
    point = batch.reference_point(loss)
    for value in (point.value, *point.statistics.values()):
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad
    if loss.needs_kl:
        with pytest.raises(ValueError, match="at least 2 completions"):
            loss.reference_point(batch.rows(torch.tensor([], dtype=torch.long)).completions()[0], {})


@each_loss
def test_a_reference_is_asked_for_when_needed(loss: Loss, make_batch: Any) -> None:
    batch = make_batch(loss).change(lambda c: Completions(c.policy, c.mask, None, c.values))
    if loss.needs_reference:
        with pytest.raises(ValueError, match="reference"):
            loss(*batch.columns, *([torch.tensor(0.0)] if loss.feedback == "binary" else []))
    else:
        batch.output(loss)


@each_loss
def test_empty_completions_are_harmless(loss: Loss, make_batch: Any) -> None:
    """A row without a single token neither breaks the batch nor gets a gradient."""
    batch = make_batch(loss)
    for completions in batch.completions():
        completions.mask[0] = False
    output = batch.output(loss)
    assert output.losses.isfinite().all()
    output.losses.sum().backward()
    for completions in batch.completions():
        assert completions.policy.grad.isfinite().all()
        assert (completions.policy.grad[0] == 0).all()


@each_loss
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_values_off_the_mask_do_not_matter(loss: Loss, garbage: float, make_batch: Any) -> None:
    """Neither to the losses nor, which is the trap of torch.where, to the gradients."""

    def spoil(completions: Completions) -> Completions:
        def off(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.detach().masked_fill(~completions.mask, garbage)

        policy = off(completions.policy)
        assert policy is not None
        return Completions(
            policy.requires_grad_(), completions.mask, off(completions.reference), off(completions.values)
        )

    clean, spoiled = make_batch(loss), make_batch(loss).change(spoil)
    assert torch.equal(clean.loss(loss), spoiled.loss(loss))
    clean.loss(loss).backward()
    spoiled.loss(loss).backward()
    for a, b in zip(clean.completions(), spoiled.completions(), strict=True):
        assert torch.equal(a.policy.grad, b.policy.grad)
        assert (b.policy.grad[~b.mask] == 0).all()


@each_loss
def test_gradient(loss: Loss, make_batch: Any) -> None:
    """Against finite differences, in double precision."""
    batch = make_batch(loss, n=3, t=4, seed=3)
    policies = [completions.policy for completions in batch.completions()]

    def losses(*policies: torch.Tensor) -> torch.Tensor:
        given = iter(policies)
        columns = tuple(
            Completions(next(given), column.mask, column.reference, column.values)
            if isinstance(column, Completions)
            else column
            for column in batch.columns
        )
        return type(batch)(columns, batch.mismatched).output(loss).losses

    assert torch.autograd.gradcheck(losses, policies)


@each_loss
def test_long_completions_stay_finite(loss: Loss, make_batch: Any) -> None:
    """Thousands of tokens make log-ratios of thousands of nats; sigmoids saturate, and nothing overflows."""
    batch = make_batch(loss, n=4, t=8192, dtype=torch.float32).change(
        lambda c: Completions((20 * c.policy).detach().requires_grad_(), c.mask, c.reference, c.values)
    )
    output = batch.output(loss)
    assert output.losses.isfinite().all()
    output.losses.sum().backward()
    assert all(completions.policy.grad.isfinite().all() for completions in batch.completions())


def test_kto_needs_its_reference_point_from_the_whole_batch(make_batch: Any) -> None:
    """The reference point of halves of a batch is another number, so the loop must not compute it per micro-batch."""
    kto = KTO()
    batch = make_batch(kto, n=8)
    mismatched = batch.mismatched
    half = Completions(mismatched.policy[:4], mismatched.mask[:4], mismatched.reference[:4])
    assert kto.reference_point(half, {}).value != kto.reference_point(mismatched, {}).value


@each_loss
def test_the_implied_reward_of_a_completion_is_the_one_it_logs_whatever_it_is_compared_with(loss: Loss) -> None:
    draw = torch.Generator().manual_seed(3)
    ours, its, theirs = (-torch.rand(3, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    completions = Completions(ours, mask, its if loss.needs_reference else None)
    rewards = loss.implied_rewards(completions)
    if loss.feedback == "paired":
        other = Completions(theirs, mask, its if loss.needs_reference else None)
        logged = loss(other, completions).statistics["rewards/rejected"][0]
        assert rewards is not None
        assert torch.equal(rewards, logged)
    elif rewards is not None:
        values = torch.zeros_like(ours) if loss.needs_values else None
        point = torch.tensor(0.7, dtype=torch.float64) if loss.has_reference_point else None
        scored = Completions(ours, mask, completions.reference, values)
        logged = loss(scored, torch.zeros(3, dtype=torch.bool), point).statistics["rewards/undesirable"][0]
        assert torch.equal(rewards, logged)
    else:
        labels = [] if loss.feedback == "demonstrations" else [torch.zeros(3, dtype=torch.bool)]
        assert not any(name.startswith("rewards/") for name in loss(completions, *labels).statistics)
