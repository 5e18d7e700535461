"""Robust DPO: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trl_paired import assert_same_as_dpo_trainer, make_pairs
from trl_stand_in import LONG, each_dtype

from kto_bench.losses.dpo import DPO
from kto_bench.losses.robust_dpo import RobustDPO

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[RobustDPO]) -> None:
    """With beta = 0.1, epsilon = 0.2 and log-ratios (chosen, rejected). As log sigma(-h) = log sigma(h) - h, the loss
    is DPO's minus h * epsilon / (1 - 2 epsilon) = h / 3, and its slope in h is -sigma(-h) - 1 / 3:

    1. (2, -3): h = 0.5, 0.47407698 - 0.5 / 3 = 0.30741032.
       Gradient per token: chosen -0.1 * (0.37754067 + 0.33333333) = -0.07108740, rejected the opposite.
    2. (-1, 1): h = -0.2, 0.79813887 + 0.2 / 3 = 0.86480554
    3. policy = reference: log 2
    4. (200, 0): h = 20, e^-20 - 20 / 3 = -6.66666666: not bounded below
    """
    chosen = completions([[-1, -2], [-3], [-0.7], [-1]], [[-2, -3], [-2], [-0.7], [-201]])
    rejected = completions([[-4], [-0.5, -0.5], [-5], [-2]], [[-1], [-1, -1], [-5], [-2]])
    output = cls(beta=0.1, label_smoothing=0.2)(chosen, rejected)
    assert_equals(output.losses, [0.3074103175, 0.8648055360, 0.6931471806, -6.6666666646])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-0.0710874002, -0.0710874002])
    assert_equals(rejected.policy.grad[0], [0.0710874002, 0])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0, 20])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0, 1])


def test_values_derived_by_hand() -> None:
    check(RobustDPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("as_labelled, flipped = ", "flipped, as_labelled = ", id="sign"),
        pytest.param("as_labelled - self", "as_labelled + self", id="conservative for robust"),
        pytest.param(" / (1 - 2 * self.label_smoothing)", "", id="not scaled"),
        pytest.param("(1 - 2 * self.label_smoothing)", "(1 - self.label_smoothing)", id="scaled wrongly"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(RobustDPO, old, new, check, monkeypatch)


@pytest.mark.parametrize("value", [-0.1, 0.5, 1, float("nan")])
def test_half_the_labels_flipped_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="label_smoothing"):
        RobustDPO(label_smoothing=value)


@each_dtype
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty"])
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.3])
def test_trl(label_smoothing: float, t: int, empty: bool, dtype: torch.dtype) -> None:
    chosen, rejected = make_pairs(t, dtype, empty=empty)
    loss = RobustDPO(beta=0.1, label_smoothing=label_smoothing)
    assert_same_as_dpo_trainer(loss, chosen, rejected, "robust", beta=0.1, label_smoothing=label_smoothing)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10), label_smoothing=st.floats(0, 0.45))
def test_its_mean_over_flips_is_dpo(seed: int, beta: float, label_smoothing: float, make_batch: Any) -> None:
    batch = make_batch(DPO(), seed=seed)
    chosen, rejected = batch.columns
    loss = RobustDPO(beta=beta, label_smoothing=label_smoothing)
    as_labelled, flipped = loss(chosen, rejected).losses, loss(rejected, chosen).losses
    expected = (1 - label_smoothing) * as_labelled + label_smoothing * flipped
    torch.testing.assert_close(expected, batch.output(DPO(beta=beta)).losses, rtol=0, atol=1e-9)
