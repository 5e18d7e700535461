"""KTO with the reference point 0: values, TRL's unpaired APO-zero, and what the loss does not ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from trl_stand_in import LONG, TOLERANCE, Model, backward, each_dtype, inputs, last, make_completions, mean, trainer

from kto_bench.losses.kto import KTO
from kto_bench.losses.kto_no_reference_point import KTONoReferencePoint


def check(cls: type[KTONoReferencePoint]) -> None:
    """With beta = 0.1, lambda_D = 1 and lambda_U = 2:

    1. desirable, r = 3 (tokens -1, -2 against -3, -3): 1 - sigma(0.3) = 1 / (1 + e^0.3) = 0.42555748.
       Gradient per token: -0.1 * sigma(0.3) * sigma(-0.3) = -0.1 * 0.24445831 = -0.02444583
    2. undesirable, r = 3: 2 - 2 sigma(-0.3) = 2 * 0.57444252 = 1.14888503. Gradient: +0.04889166
    3. desirable, r = -4: 1 - sigma(-0.4) = 0.59868766
    4. undesirable, r = 1: 2 sigma(0.1) = 1.04995837

    Rewards 0.1 * r: desirable 0.3 and -0.4, undesirable 0.3 and 0.1. No mismatched pairs, no reference point.
    """
    loss = cls(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0)
    assert not loss.needs_kl
    assert not loss.has_reference_point
    batch = completions([[-1, -2], [-2], [-6], [-1, -1]], [[-3, -3], [-5], [-2], [-1.5, -1.5]])
    output = loss(batch, torch.tensor([True, False, True, False]), None)
    assert_equals(output.losses, [0.4255574832, 1.1488850336, 0.5986876601, 1.0499583750])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad[:2], [[-0.0244458312, -0.0244458312], [0.0488916623, 0]])
    assert logged(output, "rewards/desirable") == pytest.approx(-0.05)
    assert logged(output, "rewards/undesirable") == pytest.approx(0.2)


def test_values_derived_by_hand() -> None:
    check(KTONoReferencePoint)


def test_values_notice_a_wrong_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(KTONoReferencePoint, "needs_kl: ClassVar[bool] = False", "", check, monkeypatch)


def test_it_is_kto_at_reference_point_0(make_batch: Any) -> None:
    loss, kto = KTONoReferencePoint(), KTO()
    batch = make_batch(kto)
    assert torch.equal(loss(*batch.columns, None).losses, kto(*batch.columns, torch.tensor(0.0)).losses)


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize(
    "weights", [(1.0, 1.0), (1.5, 0.7), (0.0, 1.0), (1.0, 0.0)], ids=lambda weights: f"{weights[0]}:{weights[1]}"
)
@pytest.mark.parametrize("labels", ["110110", "100000", "111111", "000000"])
def test_trl_apo_zero_unpaired(labels: str, weights: tuple[float, float], t: int, dtype: torch.dtype) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    completions = make_completions(6, t, 1, dtype)
    completions.mask[3] = False
    desirable = torch.tensor([label == "1" for label in labels])
    batch = {**inputs("", completions), "label": desirable, "ref_logps": completions.reference_log_prob}
    stand_in = trainer(
        KTOTrainer,
        loss_type="apo_zero_unpaired",
        beta=0.1,
        calculate_KL=False,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    theirs = KTOTrainer._compute_loss(stand_in, Model((batch["input_ids"], completions)), batch, False)

    output = KTONoReferencePoint(beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1])(
        completions, desirable, None
    )
    ours = output.losses.mean()
    torch.testing.assert_close(ours, theirs.to(dtype), **TOLERANCE)
    torch.testing.assert_close(backward(ours, completions), backward(theirs, completions), **TOLERANCE)
    for theirs_name, our_name in [("chosen", "desirable"), ("rejected", "undesirable")]:
        if f"rewards/{theirs_name}" in last(stand_in):
            assert mean(output.statistics[f"rewards/{our_name}"]) == pytest.approx(
                last(stand_in)[f"rewards/{theirs_name}"], rel=1e-5, abs=1e-6
            )
