"""Conservative DPO: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from trl_paired import assert_same, make_pairs
from trl_stand_in import LONG, each_dtype, trainer

from kto_bench.losses.cdpo import ConservativeDPO
from kto_bench.losses.dpo import DPO

seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[ConservativeDPO]) -> None:
    """With beta = 0.1, epsilon = 0.2 and log-ratios (chosen, rejected). As -log sigma(-h) = h - log sigma(h), the loss
    is DPO's plus epsilon * h, and its slope in h is sigma(h) - (1 - epsilon):

    1. (2, -3): h = 0.5, log(1 + e^-0.5) + 0.2 * 0.5 = 0.47407698 + 0.1 = 0.57407698.
       Gradient per token: chosen 0.1 * (0.62245933 - 0.8) = -0.01775407, rejected the opposite.
    2. (-1, 1): h = -0.2, 0.79813887 - 0.2 * 0.2 = 0.75813887
    3. policy = reference: log 2, the gradient is 0.1 * (0.5 - 0.8) = -0.03
    4. (10 log 4, 0): h = log 4, where sigma(h) = 0.8: the least loss, the entropy of (0.8, 0.2) = 0.50040242. No
       gradient.
    """
    chosen = completions([[-1, -2], [-3], [-0.7], [-1]], [[-2, -3], [-2], [-0.7], [-1 - 10 * math.log(4)]])
    rejected = completions([[-4], [-0.5, -0.5], [-5], [-2]], [[-1], [-1, -1], [-5], [-2]])
    output = cls(beta=0.1, label_smoothing=0.2)(chosen, rejected)
    assert_equals(output.losses, [0.5740769842, 0.7581388694, 0.6931471806, 0.5004024235])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1, 1])
    output.losses[[0, 2, 3]].sum().backward()
    assert_equals(chosen.policy.grad, [[-0.0177540669, -0.0177540669], [0, 0], [-0.03, 0], [0, 0]])
    assert_equals(rejected.policy.grad[:, 0], [0.0177540669, 0, 0.03, 0])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0, math.log(4)])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0, 1])


def test_values_derived_by_hand() -> None:
    check(ConservativeDPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("as_labelled, flipped = ", "flipped, as_labelled = ", id="sign"),
        pytest.param("+ self.label_smoothing", "- self.label_smoothing", id="robust for conservative"),
        pytest.param("(1 - self.label_smoothing) * ", "", id="weights do not add up"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(ConservativeDPO, old, new, check, monkeypatch)


@pytest.mark.parametrize("value", [-0.1, 0.5, 1, float("nan")])
def test_half_the_labels_flipped_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="label_smoothing"):
        ConservativeDPO(label_smoothing=value)


@each_dtype
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty"])
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.3])
def test_trl(label_smoothing: float, t: int, empty: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's conservative loss survives in its CPO trainer; on log-ratios instead of log-probabilities it is cDPO."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    chosen, rejected = make_pairs(t, dtype, empty=empty)
    stand_in = trainer(CPOTrainer, loss_type="sigmoid", beta=0.1, alpha=0.0, label_smoothing=label_smoothing)
    theirs, _, _ = CPOTrainer.cpo_loss(stand_in, chosen.log_ratio, rejected.log_ratio)
    ours = ConservativeDPO(beta=0.1, label_smoothing=label_smoothing)(chosen, rejected).losses
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert_same(ours.sum(), theirs.sum(), chosen, rejected)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10))
def test_without_smoothing_it_is_dpo(seed: int, beta: float, make_batch: Any) -> None:
    batch = make_batch(DPO(), seed=seed)
    losses = batch.output(ConservativeDPO(beta=beta, label_smoothing=0)).losses
    torch.testing.assert_close(losses, batch.output(DPO(beta=beta)).losses)


@laws
@given(seed=seeds, beta=st.floats(0.01, 10), label_smoothing=st.floats(0.01, 0.49))
def test_it_asks_for_a_finite_margin(seed: int, beta: float, label_smoothing: float, make_batch: Any) -> None:
    """Margins below log((1 - epsilon) / epsilon) are raised, larger ones lowered."""
    loss = ConservativeDPO(beta=beta, label_smoothing=label_smoothing)
    batch = make_batch(loss, n=9, seed=seed)
    chosen = batch.columns[0]
    output = batch.output(loss)
    (gradient,) = torch.autograd.grad(output.losses.sum(), chosen.policy)
    target = math.log((1 - label_smoothing) / label_smoothing)
    excess = output.statistics["rewards/margin"][0] - target
    clear = excess.abs() > 1e-9
    assert (gradient[:, 0].sign() == excess.sign())[clear & chosen.mask[:, 0]].all()
    entropy = -(label_smoothing * math.log(label_smoothing) + (1 - label_smoothing) * math.log(1 - label_smoothing))
    assert (output.losses >= entropy - 1e-12).all()
