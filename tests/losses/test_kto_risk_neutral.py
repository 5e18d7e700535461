"""KTO with the value function v(g) = g."""

from __future__ import annotations

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged

from kto_bench.losses.kto_risk_neutral import KTORiskNeutral


def check(cls: type[KTORiskNeutral]) -> None:
    """With beta = 0.1, lambda_D = 1, lambda_U = 2 and z0 = 1:

    1. desirable, r = 3 (tokens -1, -2 against -3, -3): -0.1 * (3 - 1) = -0.2. Gradient per token: -0.1
    2. undesirable, r = 3: -2 * 0.1 * (1 - 3) = 0.4. Gradient: +0.2
    3. desirable, r = -4: -0.1 * (-5) = 0.5
    4. undesirable, r = 1: 0

    The gradient is the same at any z0. The effective weights are the weights; nothing saturates, not even at r = 1000.
    """
    loss = cls(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0)
    desirable = torch.tensor([True, False, True, False])
    for z0, expected in ((1.0, [-0.2, 0.4, 0.5, 0]), (-9.0, [-1.2, 2.4, -0.5, 2])):
        batch = completions([[-1, -2], [-2], [-6], [-1, -1]], [[-3, -3], [-5], [-2], [-1.5, -1.5]])
        output = loss(batch, desirable, torch.tensor(z0))
        assert_equals(output.losses, expected)
        output.losses.sum().backward()
        assert_equals(batch.policy.grad, [[-0.1, -0.1], [0.2, 0], [-0.1, 0], [0.2, 0.2]])
    assert logged(output, "rewards/undesirable") == pytest.approx(0.2)
    assert logged(output, "effective_weight/desirable") == 1
    assert logged(output, "effective_weight/undesirable") == 2
    output = loss(completions([[0]], [[-1000]]), torch.tensor([True]), torch.tensor(0.0))
    assert logged(output, "saturated/desirable") == 0


def test_values_derived_by_hand() -> None:
    check(KTORiskNeutral)


@pytest.mark.parametrize(
    ("old", "new"),
    [("return -gain", "return gain"), ("return -gain", "return 1 - gain"), ("torch.ones_like", "torch.zeros_like")],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(KTORiskNeutral, old, new, check, monkeypatch)
