"""ORPO: values derived by hand, TRL's numbers, and laws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions
from hypothesis import given, settings
from hypothesis import strategies as st
from trl_paired import assert_same, make_pairs, whole_loss
from trl_stand_in import LONG, TOLERANCE, each_dtype, trainer

from kto_bench.losses.base import Completions
from kto_bench.losses.orpo import ORPO

LOG_2, LOG_5 = math.log(2), math.log(5)
seeds = st.integers(0, 2**32 - 1)
laws = settings(max_examples=25, deadline=None)


def check(cls: type[ORPO]) -> None:
    """With lambda = 0.5, and p the geometric mean of the token probabilities (chosen, rejected):

    1. (1/2, 1/8) has p = 1/4 and odds 1/3; (1/5) has odds 1/4. Odds ratio 4/3, sigma(log 4/3) = (4/3) / (7/3) = 4/7:
       log 4 + 0.5 log(7/4) = 1.38629436 + 0.27980789 = 1.66610226. As d log-odds / d log p = 1 / (1 - p), the gradient
       per chosen token is -(1 + 0.5 * 3/7 * 4/3) / 2 = -9/14, per rejected token 0.5 * 3/7 * 5/4 = 15/56.
    2. (1/2) and (1/2, 1/2): log 2 + 0.5 log 2 = 1.03972077
    3. (1/5) and (1/4): odds ratio 3/4, sigma = 3/7: log 5 + 0.5 log(7/3) = 2.03308684

    Rewards, the log-odds: chosen -log 3, 0, -log 4, rejected -log 4, 0, -log 3.
    """
    chosen = completions([[-LOG_2, -3 * LOG_2], [-LOG_2], [-LOG_5]])
    rejected = completions([[-LOG_5], [-LOG_2, -LOG_2], [-2 * LOG_2]])
    output = cls(odds_weight=0.5)(chosen, rejected)
    assert_equals(output.losses, [1.6661022551, 1.0397207708, 2.0330868426])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-9 / 14, -9 / 14])
    assert_equals(rejected.policy.grad[0], [15 / 56, 0])
    assert_equals(output.statistics["rewards/chosen"][0], [-math.log(3), 0, -math.log(4)])
    assert_equals(output.statistics["rewards/rejected"][0], [-math.log(4), 0, -math.log(3)])
    assert_equals(output.statistics["rewards/margin"][0], [math.log(4 / 3), 0, math.log(3 / 4)])
    assert_equals(output.statistics["log_probs/chosen"][0], [-4 * LOG_2, -LOG_2, -LOG_5])


def test_values_derived_by_hand() -> None:
    check(ORPO)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("(chosen_rewards - rejected_rewards)", "(rejected_rewards - chosen_rewards)", id="sign"),
        pytest.param("losses=-chosen.mean_log_prob", "losses=chosen.mean_log_prob", id="sign of the likelihood"),
        pytest.param("- self.odds_weight * ", "- ", id="no lambda"),
        pytest.param("log_p - torch.log(-torch.expm1(below_one))", "log_p", id="probabilities for odds"),
        pytest.param("log_p - torch.log(", "log_p + torch.log(", id="sign in the odds"),
        pytest.param("log_p = completions.mean_log_prob", "log_p = completions.policy_log_prob", id="sum for mean"),
        pytest.param("losses=-chosen.mean_log_prob", "losses=-chosen.policy_log_prob", id="sum in the likelihood"),
        pytest.param("torch.expm1(below_one)", "torch.expm1(below_one.detach())", id="half a gradient"),
    ],
)
def test_values_notice_a_wrong_loss(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(ORPO, old, new, check, monkeypatch)


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("odds_weight", [0.1, 1.0])
def test_trl_odds_ratio(odds_weight: float, t: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which TRL computes in single precision."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = make_pairs(t, dtype)
    averages = [c.policy_log_prob / c.lengths for c in (chosen, rejected)]
    theirs, _, _, _, log_odds = ORPOTrainer.odds_ratio_loss(trainer(ORPOTrainer, beta=odds_weight), *averages)
    output = ORPO(odds_weight=odds_weight)(chosen, rejected)
    odds_ratio_term = output.losses + chosen.policy_log_prob / chosen.lengths
    torch.testing.assert_close(odds_ratio_term, -theirs.to(dtype), **TOLERANCE)
    assert_same(odds_ratio_term.sum(), -theirs.sum(), chosen, rejected)
    torch.testing.assert_close(output.statistics["rewards/margin"][0].mean(), log_odds.detach().to(dtype), **TOLERANCE)


@pytest.mark.parametrize("t", [8, LONG])
def test_trl_with_its_likelihood_term(t: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where no prompt is trained and all chosen completions are of one length."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = make_pairs(t, torch.float64)
    chosen.mask[:] = torch.arange(t) < t - 3
    theirs = whole_loss(ORPOTrainer, chosen, rejected, beta=0.1)
    assert_same(ORPO(odds_weight=0.1)(chosen, rejected).losses.mean(), theirs, chosen, rejected)


@each_dtype
def test_certain_completions_stay_finite(dtype: torch.dtype) -> None:
    """Log-probabilities of 0, of less than a machine epsilon below it, and of empty completions, on either side."""
    tiny = torch.finfo(dtype).eps / 4
    rows = torch.tensor([[0.0, 0.0], [-tiny, 0.0], [-1e-4, -1e-4], [-1e3, -1e3], [-1.0, -1.0]], dtype=dtype)
    lengths = torch.tensor([2, 1, 2, 2, 0])
    sides = []
    for index in (torch.arange(5).repeat_interleave(5), torch.arange(5).repeat(5)):
        sides.append(Completions(rows[index].requires_grad_(), torch.arange(2) < lengths[index, None]))
    chosen, rejected = sides
    output = ORPO(odds_weight=1.0)(chosen, rejected)
    assert output.losses.isfinite().all()
    assert all(values.isfinite().all() for values, _ in output.statistics.values())
    gradients = torch.autograd.grad(output.losses.sum(), [chosen.policy, rejected.policy])
    for gradient, side, sign in zip(gradients, sides, (-1, 1), strict=True):
        assert gradient.isfinite().all()
        assert (gradient[~side.mask] == 0).all()
        assert (sign * gradient >= 0).all()
    assert (output.statistics["rewards/chosen"][0][chosen.lengths == 0] == 0).all()


@each_dtype
@pytest.mark.parametrize("log_p", [-1e-5, -1e-2, -1.0, -20.0, -90.0])
def test_log_odds_are_accurate(log_p: float, dtype: torch.dtype) -> None:
    """Near certainty, where 1 - p cancels, and where p is next to nothing: against log(p / (1 - p)) in fractions."""
    one = Completions(torch.tensor([[log_p]], dtype=dtype), torch.ones(1, 1, dtype=torch.bool))
    (log_odds,) = ORPO()(one, one).statistics["rewards/chosen"][0].tolist()
    exact = float(one.policy.double())
    rest = -math.expm1(exact)
    assert log_odds == pytest.approx(exact - math.log(rest), rel=4 * torch.finfo(dtype).eps)


@laws
@given(seed=seeds)
def test_without_odds_it_is_the_likelihood_per_token(seed: int, make_batch: Any) -> None:
    orpo = ORPO(odds_weight=0)
    batch = make_batch(orpo, seed=seed)
    chosen, _ = batch.columns
    torch.testing.assert_close(batch.output(orpo).losses, -chosen.policy_log_prob / chosen.lengths)


@laws
@given(seed=seeds, weight=st.floats(0.01, 2))
def test_the_odds_ratio_term_adds_up_with_the_roles_exchanged(seed: int, weight: float, make_batch: Any) -> None:
    """-log sigma(a) + log sigma(-a) = -a, for any odds ratio a."""
    orpo = ORPO(odds_weight=weight)
    chosen, rejected = make_batch(orpo, seed=seed).columns
    one, other = orpo(chosen, rejected), orpo(rejected, chosen)
    likelihoods = [c.policy_log_prob / c.lengths for c in (chosen, rejected)]
    difference = one.losses + likelihoods[0] - other.losses - likelihoods[1]
    torch.testing.assert_close(difference.detach(), -weight * one.statistics["rewards/margin"][0])
