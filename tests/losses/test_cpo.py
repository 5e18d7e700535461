"""CPO: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st
from trl_paired import assert_same, make_pairs, whole_loss
from trl_stand_in import LONG, TOLERANCE, each_dtype, trainer

from kto_bench.losses.base import Completions
from kto_bench.losses.cpo import CPO
from kto_bench.losses.dpo import DPO


def check(cls: type[CPO]) -> None:
    """With beta = 0.1 and nll_weight = 0.5, log-probabilities (chosen, rejected):

    1. (-1, -2) sums to -3, (-4, -4) to -8: -log sigma(0.5) + 0.5 * 1.5 = 0.47407698 + 0.75 = 1.22407698.
       Gradient per token: chosen -0.1 * sigma(-0.5) - 0.5 / 2 = -0.03775407 - 0.25, rejected 0.03775407.
    2. -3, (-0.5, -0.5) sums to -1: -log sigma(-0.2) + 0.5 * 3 = 0.79813887 + 1.5 = 2.29813887
    3. -0.7, -0.7: log 2 + 0.5 * 0.7 = 1.04314718

    Rewards 0.1 * sum: chosen -0.3, -0.3, -0.07, rejected -0.8, -0.1, -0.07.
    """
    chosen = completions([[-1, -2], [-3], [-0.7]])
    rejected = completions([[-4, -4], [-0.5, -0.5], [-0.7]])
    output = cls(beta=0.1, nll_weight=0.5)(chosen, rejected)
    assert_equals(output.losses, [1.2240769842, 2.2981388694, 1.0431471806])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-0.2877540669, -0.2877540669])
    assert_equals(rejected.policy.grad[0], [0.0377540669, 0.0377540669])
    assert_equals(output.statistics["rewards/chosen"][0], [-0.3, -0.3, -0.07])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.8, -0.1, -0.07])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0])
    assert_equals(output.statistics["log_probs/rejected"][0], [-8, -1, -0.7])


def test_values_derived_by_hand() -> None:
    check(CPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("(chosen_rewards - rejected_rewards)", "(rejected_rewards - chosen_rewards)", id="sign"),
        pytest.param("- self.nll_weight", "+ self.nll_weight", id="sign of the likelihood"),
        pytest.param("self.nll_weight * ", "", id="no weight"),
        pytest.param("chosen.mean_log_prob", "chosen.policy_log_prob", id="sum for mean in the likelihood"),
        pytest.param("self.beta * chosen", "chosen", id="no beta"),
        pytest.param(" rejected.policy_log_prob", " rejected.policy_log_prob / rejected.lengths", id="mean for sum"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(CPO, old, new, check, monkeypatch)


@each_dtype
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty"])
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_trl_preference(beta: float, t: int, empty: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    chosen, rejected = make_pairs(t, dtype, empty=empty)
    stand_in = trainer(CPOTrainer, loss_type="sigmoid", beta=beta, alpha=0.0, label_smoothing=0.0)
    theirs, chosen_rewards, rejected_rewards = CPOTrainer.cpo_loss(
        stand_in, chosen.policy_log_prob, rejected.policy_log_prob
    )
    output = CPO(beta=beta, nll_weight=0)(chosen, rejected)
    torch.testing.assert_close(output.losses, theirs, **TOLERANCE)
    assert_same(output.losses.sum(), theirs.sum(), chosen, rejected)
    torch.testing.assert_close(output.statistics["rewards/chosen"][0], chosen_rewards, **TOLERANCE)
    torch.testing.assert_close(output.statistics["rewards/rejected"][0], rejected_rewards, **TOLERANCE)


@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("nll_weight", [0.5, 1.0])
def test_trl_with_its_likelihood_term(nll_weight: float, t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where all chosen completions are of one length; else TRL's longer ones weigh more."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    settings = {"loss_type": "sigmoid", "beta": 0.1, "alpha": 0.0, "label_smoothing": 0.0, "cpo_alpha": nll_weight}
    loss = CPO(beta=0.1, nll_weight=nll_weight)
    chosen, rejected = make_pairs(t, torch.float64)
    theirs = whole_loss(CPOTrainer, chosen, rejected, **settings)
    assert abs(loss(chosen, rejected).losses.mean() - theirs) > 1e-6

    chosen.mask[:] = torch.arange(t) < t - 3
    theirs = whole_loss(CPOTrainer, chosen, rejected, **settings)
    assert_same(loss(chosen, rejected).losses.mean(), theirs, chosen, rejected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), beta=st.floats(0.01, 10))
def test_its_preference_is_dpo_with_a_reference_that_has_none(seed: int, beta: float, make_batch: Any) -> None:
    """Section 3 of the paper: any reference that gives both completions of a pair the same log-probability will do."""
    batch = make_batch(CPO(), seed=seed)
    indifferent = batch.change(lambda c: Completions(c.policy, c.mask, torch.zeros_like(c.policy)))
    losses = batch.output(CPO(beta=beta, nll_weight=0)).losses
    torch.testing.assert_close(losses, indifferent.output(DPO(beta=beta)).losses)
