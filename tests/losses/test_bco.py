"""BCO: values, TRL's paired form, and the running mean of rewards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from hypothesis import given, settings
from hypothesis import strategies as st
from trl_stand_in import LONG, TOLERANCE, Model, backward, each_dtype, inputs, make_completions, trainer

from kto_bench.losses.base import Completions
from kto_bench.losses.bco import BCO

laws = settings(max_examples=50, deadline=None)


def check(cls: type[BCO]) -> None:
    """With beta = 0.1, lambda_D = 1, lambda_U = 2 and a mean reward of 0.1 before, i.e. delta = 0.1, or 1 nat:

    1. desirable, log-ratio 3, r = 0.3 (tokens -1, -2 against -3, -3): -log sigma(0.2) = log(1 + e^-0.2) = 0.59813887.
       Gradient per token: -0.1 * sigma(-0.2) = -0.04501660
    2. undesirable, r = 0.3: -2 log sigma(-0.2) = 1.59627774. Gradient: 2 * 0.1 * sigma(0.2) = 0.10996680
    3. desirable, r = -0.4: log(1 + e^0.5) = 0.97407698
    4. undesirable, r = 0.1 = delta: 2 log 2 = 1.38629436

    Mean reward of all four: (0.3 + 0.3 - 0.4 + 0.1) / 4 = 0.075. Without a step before, delta is 0.
    """
    loss = cls(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0)
    assert loss.tracked == ("rewards/mean",)
    assert_equals(loss.reference_point(None, {}).value, 0)
    point = loss.reference_point(None, {"rewards/mean": 0.1})
    assert_equals(point.value, 1)
    assert_equals(point.statistics["delta"], 0.1)
    batch = completions([[-1, -2], [-2], [-6], [-1, -1]], [[-3, -3], [-5], [-2], [-1.5, -1.5]])
    output = loss(batch, torch.tensor([True, False, True, False]), point.value)
    assert_equals(output.losses, [0.5981388694, 1.5962777388, 0.9740769842, 1.3862943611])
    assert_equals(loss.weights(batch.lengths), [1, 1, 1, 1])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad[:2], [[-0.0450166003, -0.0450166003], [0.1099667995, 0]])
    assert logged(output, "rewards/mean") == pytest.approx(0.075)
    assert logged(output, "rewards/desirable") == pytest.approx(-0.05)
    assert logged(output, "rewards/undesirable") == pytest.approx(0.2)
    assert_equals(output.statistics["effective_weight/undesirable"][0][[1, 3]], [1.0996679946, 1])


def test_values_derived_by_hand() -> None:
    check(BCO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-F.logsigmoid(gain)", "-F.logsigmoid(-gain)"),
        ("-F.logsigmoid(gain)", "torch.sigmoid(-gain)"),
        ("value=delta / self.beta", "value=delta"),
        ('{"delta": delta}', '{"delta": delta / self.beta}'),
        ("past.get(_REWARDS, 0.0)", "0.0"),
        ("desirable, self.desirable_weight > 0, self.undesirable_weight > 0)", "desirable, False, True)"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(BCO, old, new, check, monkeypatch)


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_trl_bco_pair(beta: float, t: int, dtype: torch.dtype) -> None:
    """TRL 1.16 has BCO for pairs only, without delta: -log sigma(r_w) - log sigma(-r_l)."""
    from trl.trainer.dpo_trainer import DPOTrainer

    chosen, rejected = (make_completions(5, t, seed, dtype) for seed in (1, 2))
    rejected.mask[2] = False
    both = Completions(torch.cat([chosen.policy, rejected.policy]), torch.cat([chosen.mask, rejected.mask]))
    batch = {
        **inputs("", both),
        "ref_chosen_logps": chosen.reference_log_prob,
        "ref_rejected_logps": rejected.reference_log_prob,
    }
    stand_in = trainer(
        DPOTrainer,
        beta=beta,
        loss_types=["bco_pair"],
        loss_weights=[1.0],
        ld_alpha=None,
        use_weighting=False,
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
    )
    theirs = DPOTrainer._compute_loss(stand_in, Model((batch["input_ids"], both)), batch, False)
    loss = BCO(beta=beta)
    every = torch.ones(5, dtype=torch.bool)
    ours = loss(chosen, every, None).losses.mean() + loss(rejected, ~every, None).losses.mean()
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(backward(ours, chosen, rejected), backward(theirs, chosen, rejected), **TOLERANCE)


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("labels", ["110110", "100000", "111111", "000000"])
def test_rewards_shifted_by_delta(labels: str, t: int, dtype: torch.dtype) -> None:
    """The shift in the scale of rewards, as the equation has it."""
    completions = make_completions(6, t, 1, dtype)
    desirable = torch.tensor([label == "1" for label in labels])
    loss = BCO(beta=0.3)
    ours = loss(completions, desirable, loss.reference_point(None, {"rewards/mean": -0.7}).value).losses
    logits = 0.3 * (completions.policy_log_prob - completions.reference_log_prob) + 0.7
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(logits, desirable.to(dtype), reduction="none")
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(backward(ours.sum(), completions), backward(theirs.sum(), completions), **TOLERANCE)


@laws
@given(past=st.floats(-10, 10), beta=st.floats(0.01, 10))
def test_adding_a_constant_to_rewards_and_their_mean_changes_nothing(past: float, beta: float, make_batch: Any) -> None:
    loss = BCO(beta=beta)
    completions, desirable = make_batch(loss).columns
    first = torch.zeros_like(completions.policy)
    first[:, 0] = past / beta
    shifted = Completions(completions.policy + first, completions.mask, completions.reference)
    before = loss.reference_point(None, {"rewards/mean": 0.2}).value
    after = loss.reference_point(None, {"rewards/mean": 0.2 + past}).value
    torch.testing.assert_close(
        loss(shifted, desirable, after).losses, loss(completions, desirable, before).losses, rtol=0, atol=1e-9
    )


def test_a_class_without_weight_does_not_move_delta() -> None:
    """Though its log-ratio is infinite: the loss, its gradient and the next delta are those of the other class."""
    batch = completions([[-1], [-math.inf]], [[-3], [-1]])
    desirable = torch.tensor([True, False])
    rewards, applies = BCO(beta=0.1, undesirable_weight=0)(batch, desirable, None).statistics["rewards/mean"]
    assert applies.tolist() == [True, False]
    assert rewards[applies].tolist() == pytest.approx([0.2])
