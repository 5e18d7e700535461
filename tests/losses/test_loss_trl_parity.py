"""The same numbers as TRL for the four main losses; those of each other loss are in its own file."""

from __future__ import annotations

import pytest
import torch
from trl_stand_in import LONG, TOLERANCE, Model, backward, each_dtype, inputs, last, make_completions, mean, trainer

from kto_bench.losses.base import Completions
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.simpo import SimPO


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize(
    "weights", [(1.0, 1.0), (1.5, 0.7), (0.0, 1.0), (1.0, 0.0)], ids=lambda weights: f"{weights[0]}:{weights[1]}"
)
@pytest.mark.parametrize("empty", [False, True], ids=["", "one empty"])
@pytest.mark.parametrize("labels", ["110110", "100000", "111111", "000000"])
@pytest.mark.parametrize("drift", [0.02, -0.02], ids=["kl_above_0", "kl_clamped"])
def test_kto(labels: str, weights: tuple[float, float], t: int, drift: float, empty: bool, dtype: torch.dtype) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    completions, mismatched = (make_completions(6, t, seed, dtype) for seed in (1, 2))
    if empty:
        completions.mask[1] = mismatched.mask[2] = False
    mismatched = Completions(mismatched.policy.detach() + drift, mismatched.mask, mismatched.reference)
    desirable = torch.tensor([label == "1" for label in labels])
    batch = {
        **inputs("", completions),
        **inputs("KL_", mismatched),
        "label": desirable,
        "ref_logps": completions.reference_log_prob,
        "ref_KL_logps": mismatched.reference_log_prob,
    }
    stand_in = trainer(
        KTOTrainer,
        loss_type="kto",
        beta=0.1,
        calculate_KL=True,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    model = Model((batch["input_ids"], completions), (batch["KL_input_ids"], mismatched))
    theirs = KTOTrainer._compute_loss(stand_in, model, batch, False)

    kto = KTO(beta=0.1, desirable_weight=weights[0], undesirable_weight=weights[1])
    point = kto.reference_point(mismatched, {})
    output = kto(completions, desirable, point.value)
    ours = output.losses.mean()
    torch.testing.assert_close(ours, theirs.to(dtype), **TOLERANCE)
    torch.testing.assert_close(backward(ours, completions), backward(theirs, completions), **TOLERANCE)
    metrics = last(stand_in)
    assert float(point.value) == pytest.approx(metrics["kl"], rel=1e-5, abs=1e-9)
    assert (point.value > 0) == (drift > 0)
    for theirs_name, our_name in [("chosen", "desirable"), ("rejected", "undesirable")]:
        if f"rewards/{theirs_name}" in metrics:
            assert mean(output.statistics[f"rewards/{our_name}"]) == pytest.approx(
                metrics[f"rewards/{theirs_name}"], rel=1e-5, abs=1e-6
            )
            assert mean(output.statistics[f"log_probs/{our_name}"]) == pytest.approx(
                metrics[f"logps/{theirs_name}"], rel=1e-5
            )


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("empty", [False, True], ids=["", "one empty"])
def test_dpo(beta: float, t: int, empty: bool, dtype: torch.dtype) -> None:
    from trl.trainer.dpo_trainer import DPOTrainer

    chosen, rejected = (make_completions(5, t, seed, dtype) for seed in (1, 2))
    if empty:
        chosen.mask[1] = rejected.mask[2] = False
    both = Completions(torch.cat([chosen.policy, rejected.policy]), torch.cat([chosen.mask, rejected.mask]))
    batch = {
        **inputs("", both),
        "ref_chosen_logps": chosen.reference_log_prob,
        "ref_rejected_logps": rejected.reference_log_prob,
    }
    stand_in = trainer(
        DPOTrainer,
        beta=beta,
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        ld_alpha=None,
        use_weighting=False,
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
    )
    theirs = DPOTrainer._compute_loss(stand_in, Model((batch["input_ids"], both)), batch, False)

    output = DPO(beta=beta)(chosen, rejected)
    ours = output.losses.mean()
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(backward(ours, chosen, rejected), backward(theirs, chosen, rejected), **TOLERANCE)
    metrics = last(stand_in)
    for our_name, theirs_name in {
        "rewards/chosen": "rewards/chosen",
        "rewards/rejected": "rewards/rejected",
        "rewards/margin": "rewards/margins",
        "rewards/accuracy": "rewards/accuracies",
        "log_probs/chosen": "logps/chosen",
        "log_probs/rejected": "logps/rejected",
    }.items():
        assert mean(output.statistics[our_name]) == pytest.approx(metrics[theirs_name], rel=1e-5, abs=1e-5)


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize("empty", [False, True], ids=["", "one empty"])
@pytest.mark.parametrize(("beta", "gamma_over_beta"), [(2.0, 0.5), (2.5, 0.1), (10.0, 0.3), (2.0, 0.0)])
def test_simpo(
    beta: float, gamma_over_beta: float, t: int, empty: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    chosen, rejected = (make_completions(5, t, seed, dtype) for seed in (1, 2))
    if empty:  # its mean is 0 / 0 in TRL, which a stand-in of length 1 spares it
        chosen.mask[1] = rejected.mask[2] = False
    stand_in = trainer(
        CPOTrainer, loss_type="simpo", beta=beta, simpo_gamma=beta * gamma_over_beta, alpha=0.0, label_smoothing=0.0
    )
    averages = [c.policy_log_prob / c.lengths.clamp(min=1) for c in (chosen, rejected)]
    theirs, chosen_rewards, rejected_rewards = CPOTrainer.cpo_loss(stand_in, *averages)

    output = SimPO(beta=beta, gamma_over_beta=gamma_over_beta)(chosen, rejected)
    torch.testing.assert_close(output.losses, theirs, **TOLERANCE)
    torch.testing.assert_close(
        backward(output.losses.sum(), chosen, rejected), backward(theirs.sum(), chosen, rejected), **TOLERANCE
    )
    torch.testing.assert_close(output.statistics["rewards/chosen"][0], chosen_rewards, **TOLERANCE)
    torch.testing.assert_close(output.statistics["rewards/rejected"][0], rejected_rewards, **TOLERANCE)
