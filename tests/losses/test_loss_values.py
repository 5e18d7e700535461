"""Values derived by hand from each paper's equation, and proof that they notice a wrong loss.

``log 2 = 0.69314718``. Each ``check_*`` takes the class to be checked, so that the last test can hand it broken copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import assert_equals, assert_noticed, completions, logged
from mutated_base import assert_noticed_below

from kto_bench.losses import prospect
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.sft import SFT
from kto_bench.losses.simpo import SimPO

LOG_2 = math.log(2)


def check_sft(cls: type[SFT]) -> None:
    """Token probabilities (1/2, 1/4), (1/8), (1/2, 1/2, 1/16): losses 3, 3 and 6 log 2, weights 2, 1 and 3 tokens.

    Mean over the global batch: 12 log 2 / 6 = 2 log 2 = 1.38629436. d loss / d log p = -1 per token.
    """
    batch = completions([[-LOG_2, -2 * LOG_2], [-3 * LOG_2], [-LOG_2, -LOG_2, -4 * LOG_2]])
    loss = cls()
    output, weights = loss(batch), loss.weights(batch.lengths)
    assert_equals(output.losses, [3 * LOG_2, 3 * LOG_2, 6 * LOG_2])
    assert_equals(weights, [2, 1, 3])
    assert_equals(output.losses.sum() / weights.sum(), 1.3862943611)
    output.losses.sum().backward()
    assert_equals(batch.policy.grad, [[-1, -1, 0], [-1, 0, 0], [-1, -1, -1]])
    assert logged(output, "log_probs/demonstrations") == pytest.approx(-4 * LOG_2)


def check_dpo(cls: type[DPO]) -> None:
    """With beta = 0.1 and log-ratios (chosen, rejected):

    1. (2, -3): chosen tokens (-1, -2) under the policy, (-2, -3) under the reference; rejected (-4) and (-1).
       -log sigma(0.1 * 5) = log(1 + e^-0.5) = log(1.60653066) = 0.47407698
    2. (-1, 1): -log sigma(-0.2) = log(1 + e^0.2) = log(2.22140276) = 0.79813887
    3. policy = reference: -log sigma(0) = log 2

    Gradient of 1. per token: chosen -0.1 * sigma(-0.5) = -0.1 * 0.37754067, rejected the opposite.
    Rewards of 1. and 2.: chosen 0.2 and -0.1, rejected -0.3 and 0.1, margins 0.5 and -0.2.
    """
    chosen = completions([[-1, -2], [-3], [-0.7]], [[-2, -3], [-2], [-0.7]])
    rejected = completions([[-4], [-0.5, -0.5], [-5, -6]], [[-1], [-1, -1], [-5, -6]])
    output = cls(beta=0.1)(chosen, rejected)
    assert_equals(output.losses, [0.4740769842, 0.7981388694, 0.6931471806])
    assert_equals(cls().weights(chosen.lengths), [1, 1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-0.0377540669, -0.0377540669])
    assert_equals(rejected.policy.grad[0], [0.0377540669, 0])
    assert_equals(output.statistics["rewards/chosen"][0], [0.2, -0.1, 0])
    assert_equals(output.statistics["rewards/rejected"][0], [-0.3, 0.1, 0])
    assert_equals(output.statistics["rewards/margin"][0], [0.5, -0.2, 0])
    assert_equals(output.statistics["rewards/accuracy"][0], [1, 0, 0])  # a tie is no success
    assert_equals(output.statistics["log_probs/chosen"][0], [-3, -3, -0.7])
    assert_equals(output.statistics["log_probs/rejected"][0], [-4, -1, -11])


def check_simpo(cls: type[SimPO]) -> None:
    """Average log-probabilities (chosen, rejected):

    1. beta 2, ratio 0.5: (-1, -1) averages -1; (-1, -1, -2, -2) averages -1.5:
       -log sigma(2 * (0.5 - 0.5)) = log 2. Gradient per token: chosen -2 / 2 * 0.5 = -0.5, rejected 2 / 4 * 0.5 = 0.25.
    2. beta 2, ratio 0.5: (-0.5) and (-1, -3): -log sigma(2 * (1.5 - 0.5)) = log(1 + e^-2) = 0.12692801
    3. beta 2.5, ratio 0.1: (-2) and (-0.5, -1.5): -log sigma(2.5 * (-1 - 0.1)) = log(1 + e^2.75) = 2.81196759

    Rewards of 1. and 2.: chosen -2 and -1, rejected -3 and -4.
    """
    chosen = completions([[-1, -1], [-0.5]])
    rejected = completions([[-1, -1, -2, -2], [-1, -3]])
    output = cls(beta=2.0, gamma_over_beta=0.5)(chosen, rejected)
    assert_equals(output.losses, [0.6931471806, 0.1269280110])
    assert_equals(cls().weights(chosen.lengths), [1, 1])
    output.losses[0].backward()
    assert_equals(chosen.policy.grad[0], [-0.5, -0.5])
    assert_equals(rejected.policy.grad[0], [0.25, 0.25, 0.25, 0.25])
    assert_equals(output.statistics["rewards/chosen"][0], [-2, -1])
    assert_equals(output.statistics["rewards/rejected"][0], [-3, -4])
    assert_equals(output.statistics["rewards/margin"][0], [1, 3])
    assert_equals(output.statistics["log_probs/rejected"][0], [-6, -4])
    output = cls(beta=2.5, gamma_over_beta=0.1)(completions([[-2]]), completions([[-0.5, -1.5]]))
    assert_equals(output.losses, [2.8119675890])


def check_kto(cls: type[KTO]) -> None:
    """With beta = 0.1, lambda_D = 1, lambda_U = 2 and z0 = 1:

    1. desirable, r = 3 (tokens -1, -2 against -3, -3): 1 - sigma(0.1 * (3 - 1)) = 1 - 0.54983400 = 0.45016600.
       Gradient per token: -1 * 0.1 * sigma(0.2) * sigma(-0.2) = -0.1 * 0.24751657 = -0.02475166
    2. undesirable, r = 3: 2 - 2 sigma(0.1 * (1 - 3)) = 2 - 2 * 0.45016600 = 1.09966799. Gradient: +0.04950331
    3. desirable, r = -4: 1 - sigma(-0.5) = 1 - 0.37754067 = 0.62245933
    4. undesirable, r = 1 = z0: 2 - 2 sigma(0) = 1

    Every example weighs 1 in the mean. Rewards 0.1 * r: desirable 0.3 and -0.4, undesirable 0.3 and 0.1.

    Effective weights lambda * 4 sigma(a) sigma(-a), a = 0.2, -0.2, -0.5 and 0: desirable 0.99006629 and 0.94001485,
    undesirable 2 * 0.99006629 and 2 * 1. None is saturated. With beta = 1 and z0 = 0, r = 5 is, 4 * 0.00664806 = 0.027
    being below 0.05, and r = 4 is not, 4 * 0.01766271 = 0.071.

    Reference point: mismatched log-ratios, summed over tokens, 1.5 + 1.5 = 3 and -1: their mean is 1. From -3 and 1:
    raw mean -1, clamped to 0. No gradient.
    """
    kto = cls(beta=0.1, desirable_weight=1.0, undesirable_weight=2.0)
    mismatched = completions([[-1, -2], [-3]], [[-2.5, -3.5], [-2]])
    point = kto.reference_point(mismatched, {})
    assert_equals(point.value, 1)
    assert_equals(point.statistics["kl"], 1)
    assert_equals(point.statistics["kl_raw"], 1)
    assert not point.value.requires_grad
    below = kto.reference_point(completions([[-5, -2], [-1]], [[-2, -2], [-2]]), {})
    assert_equals(below.value, 0)
    assert_equals(below.statistics["kl"], 0)
    assert_equals(below.statistics["kl_raw"], -1)

    batch = completions([[-1, -2], [-2], [-6], [-1, -1]], [[-3, -3], [-5], [-2], [-1.5, -1.5]])
    desirable = torch.tensor([True, False, True, False])
    output = kto(batch, desirable, point.value)
    assert_equals(output.losses, [0.4501660027, 1.0996679946, 0.6224593312, 1.0])
    assert_equals(kto.weights(batch.lengths), [1, 1, 1, 1])
    output.losses.sum().backward()
    assert_equals(batch.policy.grad[:2], [[-0.0247516573, -0.0247516573], [0.0495033145, 0]])
    assert logged(output, "rewards/desirable") == pytest.approx(-0.05)
    assert logged(output, "rewards/undesirable") == pytest.approx(0.2)
    assert logged(output, "log_probs/desirable") == pytest.approx(-4.5)
    assert logged(output, "log_probs/undesirable") == pytest.approx(-2)
    assert_equals(output.statistics["effective_weight/desirable"][0][[0, 2]], [0.9900662908, 0.9400148488])
    assert_equals(output.statistics["effective_weight/undesirable"][0][[1, 3]], [1.9801325817, 2])
    assert logged(output, "saturated/desirable") == logged(output, "saturated/undesirable") == 0
    far = completions([[-1], [-1], [-1], [-6]], [[-6], [-5], [-5], [-1]])
    output = cls(beta=1.0)(far, desirable, torch.tensor(0.0))
    assert_equals(output.statistics["saturated/desirable"][0], [1, 0, 0, 1])
    assert logged(output, "saturated/desirable") == logged(output, "saturated/undesirable") == 0.5


CHECKS: dict[type, Callable[[Any], None]] = {SFT: check_sft, DPO: check_dpo, SimPO: check_simpo, KTO: check_kto}


@pytest.mark.parametrize("cls", CHECKS, ids=lambda cls: cls.__name__)
def test_values_derived_by_hand(cls: type) -> None:
    CHECKS[cls](cls)


MUTATIONS: list[tuple[type, str, str, str]] = [
    (SFT, "sign", "losses=-log_probs", "losses=log_probs"),
    (SFT, "examples for tokens", "lengths.to(torch.float32)", "torch.ones_like(lengths)"),
    (SFT, "mean for sum", "losses=-log_probs", "losses=-log_probs / completions.lengths"),
    (DPO, "sign", "F.logsigmoid(chosen_rewards - rejected_rewards)", "F.logsigmoid(rejected_rewards - chosen_rewards)"),
    (SimPO, "no length normalisation", "chosen.mean_log_prob", "chosen.policy_log_prob"),
    (SimPO, "sign", "F.logsigmoid(chosen_rewards - rejected_rewards", "F.logsigmoid(rejected_rewards - chosen_rewards"),
    (SimPO, "sign of gamma", "- gamma)", "+ gamma)"),
    (SimPO, "gamma without beta", "self.beta * self.gamma_over_beta", "self.gamma_over_beta"),
    (SimPO, "no beta", "self.beta * rejected", "rejected"),
    (KTO, "sign", "return torch.sigmoid(-gain)", "return torch.sigmoid(gain)"),
    (KTO, "slope relative to 1", "return 4 * ", "return "),
    (KTO, "sum for mean", "log_ratio.mean()", "log_ratio.sum()"),
    (KTO, "no clamp", "raw.clamp(min=0)", "raw"),
    (KTO, "gradient through the reference point", "mismatched.log_ratio.detach()", "mismatched.log_ratio"),
]


@pytest.mark.parametrize(
    ("cls", "old", "new"), [pytest.param(c, o, n, id=f"{c.__name__}: {d}") for c, d, o, n in MUTATIONS]
)
def test_values_notice_a_wrong_loss(cls: type, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed(cls, old, new, CHECKS[cls], monkeypatch)


KTO_BASE_MUTATIONS: dict[str, tuple[str, str]] = {
    "no beta": ("self.beta * (log_ratio if", "(log_ratio if"),
    "no reference point": ("log_ratio - reference_point", "log_ratio"),
    "mean for sum": ("return completions.log_ratio", "return completions.log_ratio / completions.lengths"),
    "sign of both classes": ("torch.where(desirable, scaled, -scaled)", "torch.where(desirable, -scaled, scaled)"),
    "one class for both": ("torch.where(desirable, scaled, -scaled)", "scaled"),
    "no weight": ("self.undesirable_weight * ", ""),
    "weights swapped": ("(desirable, self.desirable_weight *", "(~desirable, self.desirable_weight *"),
    "statistics of the other class": ('"undesirable": ~desirable', '"undesirable": desirable'),
    "reward minus reference point": ('"rewards": self.beta * log_ratio.detach()', '"rewards": scaled.detach()'),
    "saturated above": ("slope < SATURATED", "slope > SATURATED"),
    "another threshold": ("SATURATED = 0.05", "SATURATED = 0.1"),
    "effective weight without weight": ("self._weighted(slope, desirable)", "slope"),
}


@pytest.mark.parametrize(("old", "new"), KTO_BASE_MUTATIONS.values(), ids=KTO_BASE_MUTATIONS)
def test_values_notice_a_wrong_base_of_kto(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed_below(prospect, KTO, old, new, check_kto, monkeypatch)
