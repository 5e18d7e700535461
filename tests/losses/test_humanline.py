"""Humanline DPO and KTO: values, clamping, and what becomes of them with wide limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from hypothesis import given, settings
from hypothesis import strategies as st
from mutated_base import assert_noticed_below
from pydantic import ValidationError

from kto_bench.losses import humanline
from kto_bench.losses.base import Loss
from kto_bench.losses.dpo import DPO
from kto_bench.losses.humanline_dpo import HumanlineDPO
from kto_bench.losses.humanline_kto import HumanlineKTO
from kto_bench.losses.kto import KTO

laws = settings(max_examples=50, deadline=None)

WIDE = {"log_epsilon_low": -1000.0, "log_epsilon_high": 1000.0}


def check_dpo(cls: type[HumanlineDPO]) -> None:
    """With beta = 0.1 and the limits -1 and 1.5, log-ratios of tokens:

    1. chosen (3, 0.5) -> 1.5 + 0.5 = 2, rejected (-4) -> -1: -log sigma(0.1 * 3) = log(1 + e^-0.3) = 0.55435524.
       Gradients: chosen 0 for the clamped token, -0.1 * sigma(-0.3) = -0.04255575; rejected 0.
    2. chosen (-0.5), rejected (1, 0.2), all within: -log sigma(0.1 * -1.7) = log(1 + e^0.17) = 0.78175534.
       Gradients: -0.1 * sigma(0.17) = -0.05423979, and the opposite for both rejected tokens.
    3. policy = reference: log 2

    Rewards: chosen 0.2, -0.05, 0; rejected -0.1, 0.12, 0. Clamped: half of the chosen tokens of 1, all its rejected
    ones. log_probs are those of the policy, not clamped: chosen -1.5, -2.5 and -0.7, rejected -5, -0.8 and -2.
    """
    loss = cls(beta=0.1)
    assert loss.sync_every == 4
    assert cls(sync_steps=1).sync_every == 1
    chosen = completions([[-1, -0.5], [-2.5], [-0.7]], [[-4, -1], [-2], [-0.7]])
    rejected = completions([[-5], [-0.5, -0.3], [-2]], [[-1], [-1.5, -0.5], [-2]])
    output = loss(chosen, rejected)
    assert_equals(output.losses, [0.5543552445, 0.7817553389, math.log(2)])
    output.losses[:2].sum().backward()
    assert_equals(chosen.policy.grad[:2], [[0, -0.0425557483], [-0.0542397941, 0]])
    assert_equals(rejected.policy.grad[:2], [[0, 0], [0.0542397941, 0.0542397941]])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.05, 0])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.1, 0.12, 0])
    assert_equals(output.statistics["clamped/chosen"][0], [0.5, 0, 0])
    assert_equals(output.statistics["clamped/rejected"][0], [1, 0, 0])
    assert_equals(output.statistics["log_probs/chosen"][0], [-1.5, -2.5, -0.7])
    assert_equals(output.statistics["log_probs/rejected"][0], [-5, -0.8, -2])


def check_kto(cls: type[HumanlineKTO]) -> None:
    """With beta = 0.1, lambda_D = 1.1, lambda_U = 1, the limits -1 and 1.5.

    z0: mismatched tokens (5, 0.5) -> 2 and (-3) -> -1, whose mean is 0.5 (it would be 1.25 without the limits).

    1. desirable (3, 0.5) -> 2: 1.1 * (1 - sigma(0.1 * 1.5)) = 1.1 * 0.46257015 = 0.50882717.
       Gradients: 0 for the clamped token, -1.1 * 0.1 * sigma(0.15) * sigma(-0.15) = -0.02734589
    2. undesirable (-4) -> -1: 1 - sigma(0.1 * 1.5) = 0.46257015. Gradient 0: clamped
    3. desirable (0.5): 1.1 * 0.5 = 0.55

    Rewards: desirable 0.2 and 0.05, undesirable -0.1. Clamped: desirable (1/2 + 0) / 2, undesirable 1. log_probs are
    those of the policy, not clamped: desirable -1.5 and -0.5, undesirable -5.
    """
    loss = cls()
    assert loss.sync_every == 4
    point = loss.reference_point(completions([[-1, -0.5], [-5]], [[-6, -1], [-2]]), {})
    assert_equals(point.value, 0.5)
    assert_equals(point.statistics["kl_raw"], 0.5)
    assert not point.value.requires_grad
    batch = completions([[-1, -0.5], [-5], [-0.5]], [[-4, -1], [-1], [-1]])
    output = loss(batch, torch.tensor([True, False, True]), point.value)
    assert_equals(output.losses, [0.5088271701, 0.4625701547, 0.55])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad[:2], [[0, -0.0273458907], [0, 0]])
    assert logged(output, "rewards/desirable") == pytest.approx(0.125)
    assert logged(output, "rewards/undesirable") == pytest.approx(-0.1)
    assert logged(output, "clamped/desirable") == 0.25
    assert logged(output, "clamped/undesirable") == 1
    assert logged(output, "log_probs/desirable") == pytest.approx(-1)
    assert logged(output, "log_probs/undesirable") == pytest.approx(-5)


CHECKS: dict[type, Any] = {HumanlineDPO: check_dpo, HumanlineKTO: check_kto}
each_class = pytest.mark.parametrize("cls", CHECKS, ids=lambda cls: cls.__name__)


@each_class
def test_values_derived_by_hand(cls: type) -> None:
    CHECKS[cls](cls)


@each_class
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".clamp(self.log_epsilon_low, self.log_epsilon_high)", ""),
        (".clamp(self.log_epsilon_low, self.log_epsilon_high)", ".clamp(self.log_epsilon_low)"),
        (".clamp(self.log_epsilon_low, self.log_epsilon_high)", ".clamp(max=self.log_epsilon_high)"),
        (".clamp(self.log_epsilon_low, self.log_epsilon_high)", ".clamp(-1.5, 1.5)"),
        ("completions.policy - completions.reference, 0.0", "completions.reference - completions.policy, 0.0"),
        ("outside.sum(-1)", "(~outside).sum(-1)"),
        ("return self.sync_steps", "return 1"),
        ("Field(4, ge=1", "Field(2, ge=1"),
    ],
)
def test_values_notice_a_wrong_clamp(cls: type, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed_below(humanline, cls, old, new, CHECKS[cls], monkeypatch)


@pytest.mark.parametrize(
    ("cls", "old", "new"),
    [
        (HumanlineDPO, "self.clamped(rejected)", "rejected"),
        (HumanlineDPO, 'statistics[f"log_probs/{label}"] = (log_probs, every)', ""),
        (HumanlineKTO, "None if mismatched is None else self.clamped(mismatched)", "mismatched"),
        (HumanlineKTO, "self.clamped(completions), desirable", "completions, desirable"),
        (HumanlineKTO, 'statistics[f"log_probs/{label}"] = (log_probs, applies)', ""),
        (HumanlineKTO, '("undesirable", ~desirable)', '("undesirable", desirable)'),
        (HumanlineKTO, "        1.1, ge=0", "        1.0, ge=0"),
    ],
)
def test_values_notice_a_wrong_loss(cls: type, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(cls, old, new, CHECKS[cls], monkeypatch)


@pytest.mark.parametrize(
    ("humanline_loss", "plain"), [(HumanlineDPO(**WIDE), DPO()), (HumanlineKTO(**WIDE), KTO(desirable_weight=1.1))]
)
@laws
@given(seed=st.integers(0, 2**32 - 1))
def test_within_wide_limits_it_is_the_plain_loss(humanline_loss: Loss, plain: Loss, seed: int, make_batch: Any) -> None:
    batch = make_batch(plain, seed=seed)
    ours, theirs = batch.output(humanline_loss), batch.output(plain)
    assert torch.equal(ours.losses, theirs.losses)
    for name, (values, applies) in theirs.statistics.items():
        assert torch.equal(ours.statistics[name][0], values)
        assert torch.equal(ours.statistics[name][1], applies)


@each_class
@laws
@given(seed=st.integers(0, 2**32 - 1))
def test_a_clamped_token_gets_no_gradient_and_every_other_does(cls: type, seed: int, make_batch: Any) -> None:
    loss = cls()
    batch = make_batch(loss, seed=seed)
    batch.output(loss).losses.sum().backward()
    for given_completions in batch.completions():
        log_ratio = (given_completions.policy - given_completions.reference).detach()
        inside = (log_ratio > -1) & (log_ratio < 1.5) & given_completions.mask
        assert torch.equal(given_completions.policy.grad != 0, inside)


@each_class
@pytest.mark.parametrize("changes", [{"log_epsilon_low": 0.1}, {"log_epsilon_high": -0.1}, {"sync_steps": 0}])
def test_impossible_settings_are_refused(cls: type, changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        cls.model_validate(changes)
