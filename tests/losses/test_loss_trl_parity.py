"""The same numbers as TRL: its own loss methods, run on our log-probabilities through a stand-in for the trainer."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kto_bench.losses.base import Completions
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.simpo import SimPO

pytest.importorskip("trl", reason="trl is in the test extra")
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
LONG = 3000

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class Model:
    """Answers each call with the log-probabilities prepared for those input ids; 0 off the mask, as TRL's head does."""

    def __init__(self, *prepared: tuple[Tensor, Completions]) -> None:
        self.prepared = prepared

    def __call__(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        log_probs = next(torch.where(c.mask, c.policy, 0.0) for ids, c in self.prepared if ids is input_ids)
        zeros = torch.zeros_like(log_probs)
        return SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def trainer(cls: type, **attributes: Any) -> Any:
    """What TRL's loss methods read from ``self``, without a model or a data set behind it."""
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=_same, gather_for_metrics=_same)
    stand_in = SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )
    if hasattr(cls, "_compute_kl_logps"):
        stand_in._compute_kl_logps = lambda model, batch: cls._compute_kl_logps(stand_in, model, batch)
    return stand_in


def _same(value: Tensor) -> Tensor:
    return value


def make_completions(n: int, t: int, seed: int, dtype: torch.dtype) -> Completions:
    generator = torch.Generator().manual_seed(seed)

    def log_probs() -> Tensor:
        return -0.05 * torch.rand(n, t, generator=generator, dtype=dtype)

    mask = torch.arange(t) < torch.randint(1, t + 1, (n, 1), generator=generator)
    return Completions(log_probs().requires_grad_(), mask, log_probs())


def inputs(prefix: str, completions: Completions) -> dict[str, Tensor]:
    """TRL's columns: one prompt token in front, so that its shift by one leaves exactly our tokens."""
    mask = torch.nn.functional.pad(completions.mask, (1, 0)).long()
    return {
        f"{prefix}input_ids": torch.ones_like(mask),
        f"{prefix}attention_mask": torch.ones_like(mask),
        f"{prefix}completion_mask": mask,
    }


def backward(loss: Tensor, *completions: Completions) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [c.policy for c in completions]))


def last(stand_in: Any) -> dict[str, float]:
    return {name: values[-1] for name, values in stand_in._metrics["train"].items()}


def mean(statistic: tuple[Tensor, Tensor]) -> float:
    values, applies = statistic
    return float(values[applies].mean())


@each_dtype
@pytest.mark.parametrize("t", [8, LONG])
@pytest.mark.parametrize(
    "weights", [(1.0, 1.0), (1.5, 0.7), (0.0, 1.0), (1.0, 0.0)], ids=lambda weights: f"{weights[0]}:{weights[1]}"
)
@pytest.mark.parametrize("labels", ["110110", "100000", "111111", "000000"])
@pytest.mark.parametrize("drift", [0.02, -0.02], ids=["kl_above_0", "kl_clamped"])
def test_kto(labels: str, weights: tuple[float, float], t: int, drift: float, dtype: torch.dtype) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    completions, mismatched = (make_completions(6, t, seed, dtype) for seed in (1, 2))
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
    point = kto.reference_point(mismatched)
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
def test_dpo(beta: float, t: int, dtype: torch.dtype) -> None:
    from trl.trainer.dpo_trainer import DPOTrainer

    chosen, rejected = (make_completions(5, t, seed, dtype) for seed in (1, 2))
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
@pytest.mark.parametrize(("beta", "gamma_over_beta"), [(2.0, 0.5), (2.5, 0.1), (10.0, 0.3), (2.0, 0.0)])
def test_simpo(
    beta: float, gamma_over_beta: float, t: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    chosen, rejected = (make_completions(5, t, seed, dtype) for seed in (1, 2))
    stand_in = trainer(
        CPOTrainer, loss_type="simpo", beta=beta, simpo_gamma=beta * gamma_over_beta, alpha=0.0, label_smoothing=0.0
    )
    averages = [c.policy_log_prob / c.lengths for c in (chosen, rejected)]
    theirs, chosen_rewards, rejected_rewards = CPOTrainer.cpo_loss(stand_in, *averages)

    output = SimPO(beta=beta, gamma_over_beta=gamma_over_beta)(chosen, rejected)
    torch.testing.assert_close(output.losses, theirs, **TOLERANCE)
    torch.testing.assert_close(
        backward(output.losses.sum(), chosen, rejected), backward(theirs.sum(), chosen, rejected), **TOLERANCE
    )
    torch.testing.assert_close(output.statistics["rewards/chosen"][0], chosen_rewards, **TOLERANCE)
    torch.testing.assert_close(output.statistics["rewards/rejected"][0], rejected_rewards, **TOLERANCE)
