"""The training loop: exact global means, the reference from its cache, divergence, and what is left on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from kto_bench.feedback.batches import Step, schedule, units_of
from kto_bench.feedback.tokens import TokenisedFeedback
from kto_bench.losses import Loss
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.sft import SFT
from kto_bench.losses.simpo import SimPO
from kto_bench.training.config import TrainConfig
from kto_bench.training.logprobs import completion_log_probs
from kto_bench.training.loop import Cached, Trainer, TrainingDivergedError
from kto_bench.training.reference import ReferenceLogProbs, save_reference

LOSSES = [SFT(), DPO(beta=0.5), KTO(beta=0.5, desirable_weight=1.5), SimPO()]


def data_of(pairs: int = 8) -> TokenisedFeedback:
    """Pairs of random tokens with uneven lengths."""
    random = np.random.default_rng(0)
    prompts = [[1, *random.integers(7, 64, size=random.integers(1, 9))] for _ in range(pairs)]
    completions = [[*random.integers(7, 64, size=random.integers(1, 12)), 2] for _ in range(2 * pairs)]
    as_lists = lambda rows: [[int(token) for token in row] for row in rows]  # noqa: E731
    return TokenisedFeedback(
        kind="paired",
        prompts=as_lists(prompts),
        prompt_of=np.repeat(np.arange(pairs), 2),
        completions=as_lists(completions),
        desirable=None,
        ids=[f"row{i // 2}" for i in range(2 * pairs)],
        truncated={},
    )


def steps_of(data: TokenisedFeedback, loss: Loss, steps: int = 4) -> list[Step]:
    return schedule(
        units_of(data, loss.feedback),
        data.prompt_of,
        completions_per_step=8,
        epochs=1,
        steps=steps,
        seed=0,
        mismatched=loss.needs_kl,
    )


def cached(tmp_path: Path, data: TokenisedFeedback, steps: list[Step]) -> Cached:
    """The reference's log-probabilities as the stages make them."""

    def save(name: str, prompts: list[list[int]], completions: list[list[int]]) -> ReferenceLogProbs:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        save_reference(tmp_path / name, tiny_model(), prompts, completions, 0, lambda done, total: None)
        return ReferenceLogProbs.load(tmp_path / name)

    matched = save("matched", [data.prompts[i] for i in data.prompt_of], data.completions)
    pairs = [pair for step in steps for pair in step.mismatched]
    if not pairs:
        return Cached(matched)
    return Cached(
        matched, save("mismatched", [data.prompts[p] for p, _ in pairs], [data.completions[c] for _, c in pairs])
    )


def train(tmp_path: Path, loss: Loss, **changes: Any) -> tuple[list[dict[str, float]], Any]:
    data = data_of()
    steps = steps_of(data, loss)
    settings = {"learning_rate": 1e-2, "completions_per_step": 8, "warmup_fraction": 0.0, **changes}
    trainer = Trainer(tiny_model(), 0, data, loss, TrainConfig(**settings), cached(tmp_path, data, steps))
    trainer.run(steps, tmp_path, lambda metrics, timing: None)
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()], trainer.policy


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize(
    "changes", [{"micro_batch_size": 2}, {"micro_batch_size": 3}, {"gradient_checkpointing": True}], ids=str
)
def test_how_a_step_is_split_changes_no_number(tmp_path: Path, loss: Loss, changes: dict[str, Any]) -> None:
    """The losses, gradient norms, statistics and weights after 4 steps are those of the undivided batch."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "split").mkdir()
    whole, policy = train(tmp_path / "whole", loss, micro_batch_size=64)
    split, other = train(tmp_path / "split", loss, **{"micro_batch_size": 64, **changes})
    assert [sorted(row) for row in whole] == [sorted(row) for row in split]
    # At the first step policy and reference agree, and whether a margin of 0 counts as right is a matter of rounding.
    for row in (whole[0], split[0]):
        row.pop("rewards/accuracy", None)
    for one, two in zip(whole, split, strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)
    for name, weights in policy.state_dict().items():
        torch.testing.assert_close(weights, other.state_dict()[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_the_first_step_is_the_loss_of_the_whole_batch(tmp_path: Path, loss: Loss) -> None:
    """At policy = reference: DPO is log 2, KTO the mean of lambda / 2 over the batch, SFT the mean over all tokens."""
    first = train(tmp_path, loss, micro_batch_size=2)[0][0]
    data = data_of()
    step = steps_of(data, loss)[0]
    if isinstance(loss, DPO):
        assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    elif isinstance(loss, KTO):
        desirable = (step.units % 2 == 0).mean()
        assert first["loss"] == pytest.approx((1.5 * desirable + 1.0 * (1 - desirable)) / 2, abs=1e-6)
        assert first["kl"] == pytest.approx(0, abs=1e-6)
    elif isinstance(loss, SFT):
        indices = step.units.ravel()
        with torch.no_grad():
            log_probs, mask = completion_log_probs(
                tiny_model(),
                [data.prompts[data.prompt_of[i]] for i in indices],
                [data.completions[i] for i in indices],
                0,
            )
        assert first["loss"] == pytest.approx(float(-log_probs.sum() / mask.sum()), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_training_lowers_the_loss_on_its_own_batch(tmp_path: Path, loss: Loss) -> None:
    rows = train(tmp_path, loss, schedule="constant")[0]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["completions"] for row in rows] == [8, 16, 24, 32]
    assert rows[2]["loss"] < rows[0]["loss"]  # 8 pairs in steps of 4 (or 8 completions): step 3 repeats the data


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_optimisers_move_the_weights(tmp_path: Path, optimizer: str) -> None:
    policy = train(tmp_path, DPO(), optimizer=optimizer)[1]
    assert not torch.equal(policy.get_input_embeddings().weight, tiny_model().get_input_embeddings().weight)


def test_the_learning_rate_warms_up_and_decays(tmp_path: Path) -> None:
    rows = train(tmp_path, DPO(), warmup_fraction=0.5, schedule="linear")[0]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.0, 0.5e-2, 1e-2, 0.5e-2])


def test_divergence_stops_the_run_naming_step_and_ids(tmp_path: Path) -> None:
    data, loss = data_of(), DPO()
    steps = steps_of(data, loss)
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] = float("nan")
    trainer = Trainer(model, 0, data, loss, TrainConfig(completions_per_step=8), cached(tmp_path, data, steps))
    with pytest.raises(TrainingDivergedError, match=r"step 1: loss nan.*row\d"):
        trainer.run(steps, tmp_path, lambda metrics, timing: None)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("architecture", ["opt", "llama", "gpt_neox"])
def test_dropout_is_off_wherever_a_model_keeps_it(architecture: str, checkpointing: bool) -> None:
    """OPT and attention layers apply functional dropout at rates that are plain numbers on their modules."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    rates = {"dropout": 0.3, "ffn_dim": 48, "word_embed_proj_dim": 32, "layerdrop": 0.3}
    more = rates if architecture == "opt" else {"intermediate_size": 48, "attention_dropout": 0.3}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes, **more)).eval()
    data = data_of()
    rows = ([data.prompts[i] for i in data.prompt_of], data.completions, 0)
    with torch.no_grad():
        before, _ = completion_log_probs(model, *rows)
    config = TrainConfig(completions_per_step=8, gradient_checkpointing=checkpointing)
    policy = Trainer(model, 0, data, SFT(), config, Cached()).policy
    torch.testing.assert_close(completion_log_probs(policy, *rows)[0].detach(), before, atol=1e-5, rtol=1e-5)


def test_the_cached_reference_is_the_live_one(tmp_path: Path) -> None:
    data = data_of()
    prompts = [data.prompts[i] for i in data.prompt_of]
    matched = cached(tmp_path, data, []).matched
    assert matched is not None
    with torch.no_grad():
        live, _ = completion_log_probs(tiny_model(), prompts, data.completions, 0)
    torch.testing.assert_close(matched.rows(range(16), live.shape[1]), live, atol=1e-5, rtol=1e-5)
    assert len(matched) == 16
