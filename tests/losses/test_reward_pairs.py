"""What the losses of two implied rewards share: each notices errors in the base, and TRL has the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import test_apo_down
import test_apo_zero
import test_cdpo
import test_nca
import test_robust_dpo
import torch
from mutated_base import assert_noticed_below
from test_loss_values import check_dpo
from trl_paired import assert_same_as_dpo_trainer, make_pairs
from trl_stand_in import LONG, each_dtype

from kto_bench.losses import reward_pairs
from kto_bench.losses.apo_down import APODown
from kto_bench.losses.apo_zero import APOZero
from kto_bench.losses.cdpo import ConservativeDPO
from kto_bench.losses.dpo import DPO
from kto_bench.losses.nca import NCA
from kto_bench.losses.robust_dpo import RobustDPO

CHECKS: dict[type, Callable[[Any], None]] = {
    DPO: check_dpo,
    ConservativeDPO: test_cdpo.check,
    RobustDPO: test_robust_dpo.check,
    NCA: test_nca.check,
    APOZero: test_apo_zero.check,
    APODown: test_apo_down.check,
}


@pytest.mark.parametrize("cls", CHECKS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("self.beta * chosen", "chosen", id="no beta"),
        pytest.param("rejected.log_ratio", "rejected.policy_log_prob", id="no reference"),
        pytest.param("chosen.log_ratio", "chosen.log_ratio / chosen.lengths", id="mean for sum"),
        pytest.param("of_rewards(chosen_rewards, rejected", "of_rewards(rejected_rewards, chosen", id="exchanged"),
    ],
)
def test_values_notice_a_wrong_base(cls: type, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_noticed_below(reward_pairs, cls, old, new, CHECKS[cls], monkeypatch)


@each_dtype
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty"])
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("cls", [NCA, APOZero, APODown], ids=lambda cls: cls.__name__)
def test_trl(cls: type[reward_pairs.RewardPairs], beta: float, t: int, empty: bool, dtype: torch.dtype) -> None:
    name = {NCA: "nca_pair", APOZero: "apo_zero", APODown: "apo_down"}[cls]
    chosen, rejected = make_pairs(t, dtype, empty=empty)
    assert_same_as_dpo_trainer(cls(beta=beta), chosen, rejected, name, beta=beta)
