"""KTO with the value function log sigma."""

from __future__ import annotations

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_bench.losses.kto_concave import KTOConcave

laws = settings(max_examples=50, deadline=None)


def check(cls: type[KTOConcave]) -> None:
    """With beta = 0.1, lambda_D = 1, lambda_U = 2 and z0 = 1:

    1. desirable, r = 3 (tokens -1, -2 against -3, -3), gain 0.2: -log sigma(0.2) = log(1 + e^-0.2) = 0.59813887.
       Gradient per token: -0.1 * sigma(-0.2) = -0.04501660
    2. undesirable, r = 3, gain -0.2: 2 log(1 + e^0.2) = 1.59627774. Gradient: +2 * 0.1 * sigma(0.2) = 0.10996680
    3. desirable, r = -4, gain -0.5: log(1 + e^0.5) = 0.97407698
    4. undesirable, r = 1, gain 0: 2 log 2 = 1.38629436

    Effective weights lambda * sigma(-gain): desirable 0.45016600 and 0.62245933, undesirable 2 * 0.54983400 and
    2 * 0.5. With beta = 1 and z0 = 0 a desirable r = 3 is saturated, sigma(-3) = 0.047; -3 is not.
    """
    loss = cls(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0)
    batch = completions([[-1, -2], [-2], [-6], [-1, -1]], [[-3, -3], [-5], [-2], [-1.5, -1.5]])
    desirable = torch.tensor([True, False, True, False])
    output = loss(batch, desirable, torch.tensor(1.0))
    assert_equals(output.losses, [0.5981388694, 1.5962777388, 0.9740769842, 1.3862943611])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad[:2], [[-0.0450166003, -0.0450166003], [0.1099667995, 0]])
    assert logged(output, "rewards/desirable") == pytest.approx(-0.05)
    assert_equals(output.statistics["effective_weight/desirable"][0][[0, 2]], [0.4501660027, 0.6224593312])
    assert_equals(output.statistics["effective_weight/undesirable"][0][[1, 3]], [1.0996679946, 1])
    output = cls(beta=1.0)(completions([[-1], [-4]], [[-4], [-1]]), torch.tensor([True, True]), torch.tensor(0.0))
    assert_equals(output.statistics["saturated/desirable"][0], [1, 0])


def test_values_derived_by_hand() -> None:
    check(KTOConcave)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-F.logsigmoid(gain)", "-F.logsigmoid(-gain)"),
        ("-F.logsigmoid(gain)", "F.logsigmoid(gain)"),
        ("-F.logsigmoid(gain)", "torch.sigmoid(-gain)"),
        ("torch.sigmoid(-gain)", "torch.sigmoid(gain)"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(KTOConcave, old, new, check, monkeypatch)


@laws
@given(a=st.floats(-50, 50), b=st.floats(-50, 50))
def test_value_is_concave_in_losses_too(a: float, b: float) -> None:
    value = -KTOConcave().shortfall(torch.tensor([a, b, (a + b) / 2], dtype=torch.float64))
    assert value[2] >= value[:2].mean() - 1e-12
