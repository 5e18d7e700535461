"""TRL's trainers for paired feedback beside our losses of pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl_stand_in import TOLERANCE, Model, backward, inputs, last, make_completions, mean, trainer

from kto_bench.losses.base import Completions, Loss


def make_pairs(t: int, dtype: torch.dtype, *, empty: bool = False) -> tuple[Completions, Completions]:
    """5 pairs of up to t tokens, of uneven lengths; with ``empty``, one chosen and one rejected has no token."""
    chosen, rejected = (make_completions(5, t, seed, dtype) for seed in (1, 2))
    if empty:
        chosen.mask[0] = False
        rejected.mask[1] = False
    return chosen, rejected


def assert_same_as_dpo_trainer(
    loss: Loss, chosen: Completions, rejected: Completions, loss_type: str, *, rewards: bool = True, **attributes: Any
) -> None:
    """The mean loss, the gradients and, unless TRL defines them otherwise, the rewards are TRL's."""
    from trl.trainer.dpo_trainer import DPOTrainer

    both = Completions(torch.cat([chosen.policy, rejected.policy]), torch.cat([chosen.mask, rejected.mask]))
    batch = {
        **inputs("", both),
        "ref_chosen_logps": chosen.reference_log_prob,
        "ref_rejected_logps": rejected.reference_log_prob,
    }
    defaults = {"label_smoothing": 0.0, "ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
    stand_in = trainer(DPOTrainer, loss_types=[loss_type], loss_weights=[1.0], **{**defaults, **attributes})
    theirs = DPOTrainer._compute_loss(stand_in, Model((batch["input_ids"], both)), batch, False)

    output = loss(chosen, rejected)
    assert_same(output.losses.mean(), theirs, chosen, rejected)
    metrics = last(stand_in)
    names = {"log_probs/chosen": "logps/chosen", "log_probs/rejected": "logps/rejected"}
    if rewards:
        names |= {"rewards/chosen": "rewards/chosen", "rewards/rejected": "rewards/rejected"}
        names |= {"rewards/margin": "rewards/margins", "rewards/accuracy": "rewards/accuracies"}
    for ours_name, theirs_name in names.items():
        torch.testing.assert_close(mean(output.statistics[ours_name]), metrics[theirs_name], rtol=1e-5, atol=1e-5)


def assert_same(ours: Tensor, theirs: Tensor, chosen: Completions, rejected: Completions) -> None:
    """Two scalars and their gradients agree."""
    torch.testing.assert_close(ours, theirs.to(ours.dtype), **TOLERANCE)
    torch.testing.assert_close(
        backward(ours, chosen, rejected), backward(theirs, chosen, rejected), check_dtype=False, **TOLERANCE
    )


def whole_loss(cls: type, chosen: Completions, rejected: Completions, **attributes: Any) -> Tensor:
    """The loss of TRL's CPO or ORPO trainer, its likelihood term included, from logits with our log-probabilities."""
    batch: dict[str, Tensor] = {}
    for name, completions in {"chosen": chosen, "rejected": rejected}.items():
        # One prompt token in front, so that the shift by one leaves exactly our tokens; every token has the id 0.
        mask = torch.nn.functional.pad(completions.mask, (1, 0), value=False)
        batch[f"{name}_input_ids"] = torch.zeros_like(mask, dtype=torch.long)
        batch[f"{name}_labels"] = torch.where(mask, 0, -100)
        batch[f"{name}_attention_mask"] = torch.nn.functional.pad(completions.mask, (1, 0), value=True).long()
    stand_in = trainer(
        cls,
        is_encoder_decoder=False,
        padding_value=0,
        pad_token_id=0,
        concatenated_inputs=cls.concatenated_inputs,
        get_batch_logps=cls.get_batch_logps,
        **attributes,
    )
    for method in ("concatenated_forward", "cpo_loss", "odds_ratio_loss"):
        if hasattr(cls, method):
            setattr(stand_in, method, getattr(cls, method).__get__(stand_in))

    def model(*_: Any, **__: Any) -> SimpleNamespace:
        log_p = torch.cat([torch.where(c.mask, c.policy, -1.0) for c in (chosen, rejected)])
        logits = torch.stack([log_p, torch.log(-torch.expm1(log_p))], dim=-1)
        return SimpleNamespace(logits=torch.nn.functional.pad(logits, (0, 0, 0, 1)))

    loss, _ = cls.get_batch_loss_metrics(stand_in, model, batch)
    return loss
