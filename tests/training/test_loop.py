"""The training loop: exact global means, the reference from its cache, divergence, saves, and what is left on disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import Job, assert_same, cached, data_of, rows
from family import TRAINED, loss_of
from tiny import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.sft import SFT
from kto_bench.preemption import Preempted, Preemption
from kto_bench.training.carried import Cached
from kto_bench.training.config import TrainConfig
from kto_bench.training.logprobs import Scorer
from kto_bench.training.loop import Safety, Trainer, TrainingDivergedError
from kto_bench.training.saves import SaveError, Saves


def first_metrics(job: Job, **changes: Any) -> dict[str, float]:
    return job.train("first", **changes).metrics[0]


def test_the_first_loss_of_dpo_is_log_2(tmp_path: Path) -> None:
    """At policy = reference, whatever the passes."""
    metrics = first_metrics(Job(tmp_path, DPO(), steps=1), micro_batch_size=2)
    assert metrics["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_the_first_loss_of_kto_is_the_mean_of_half_the_weights(tmp_path: Path) -> None:
    job = Job(tmp_path, KTO(desirable_weight=1.5), steps=1)
    metrics = first_metrics(job, micro_batch_size=2)
    desirable = (job.steps[0].units % 2 == 0).mean()
    assert metrics["loss"] == pytest.approx((1.5 * desirable + 1.0 * (1 - desirable)) / 2, abs=1e-6)
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)


def test_the_loss_of_sft_is_the_mean_over_all_tokens(tmp_path: Path) -> None:
    """From the model's own logits of each sequence alone."""
    job = Job(tmp_path, SFT(), steps=1)
    total, tokens = 0.0, 0
    for index in job.steps[0].units.ravel():
        prompt, completion = job.data.prompts[job.data.prompt_of[index]], job.data.completions[index]
        with torch.no_grad():
            log_probs = tiny_model()(torch.tensor([[*prompt, *completion]])).logits[0].log_softmax(-1)
        total -= sum(float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(completion))
        tokens += len(completion)
    assert first_metrics(job, micro_batch_size=2)["loss"] == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_on_its_own_batch(tmp_path: Path, name: str) -> None:
    """16 completions in steps of 8 (8 pairs in steps of 4, or 8 demonstrations): the data repeat.

    Where a reference point moves with the policy, losses of two steps do not compare: the margin between the classes
    must grow.
    """
    loss = loss_of(name)
    metrics = Job(tmp_path, loss, steps=5).train("run", learning_rate=1e-2).metrics
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5]
    assert [row["completions"] for row in metrics] == [8, 16, 24, 32, 40]
    if loss.has_reference_point:
        first, *_, last = (row["rewards/desirable"] - row["rewards/undesirable"] for row in metrics)
        assert last > first
    else:
        assert metrics[4]["loss"] < metrics[0]["loss"]


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_optimisers_move_the_weights(tmp_path: Path, optimizer: str) -> None:
    weights = Job(tmp_path, DPO(), steps=2).train("run", optimizer=optimizer).weights
    assert not torch.equal(weights["model.embed_tokens.weight"], tiny_model().get_input_embeddings().weight)


def test_the_learning_rate_warms_up_and_decays(tmp_path: Path) -> None:
    job = Job(tmp_path, DPO(), steps=4)
    metrics = job.train("run", learning_rate=1e-2, warmup_fraction=0.5, schedule="linear").metrics
    assert [row["learning_rate"] for row in metrics] == pytest.approx([0.0, 0.5e-2, 1e-2, 0.5e-2])


def test_divergence_stops_the_run_naming_step_and_ids(tmp_path: Path) -> None:
    job, model = Job(tmp_path, DPO()), tiny_model()
    trainer = Trainer(model, 0, job.data, job.loss, TrainConfig(completions_per_step=8), job.cached)
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] = float("nan")
    with pytest.raises(TrainingDivergedError, match=r"step 1: loss nan.*row\d"):
        trainer.run(job.steps, tmp_path, lambda metrics, timing: None)
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
    batch = ([data.prompts[i] for i in data.prompt_of], data.completions)
    with torch.no_grad():
        before, _ = Scorer(model, 0)(*batch)
    config = TrainConfig(completions_per_step=8, gradient_checkpointing=checkpointing)
    policy = Trainer(model, 0, data, SFT(), config, Cached()).policy
    assert policy.training == checkpointing
    torch.testing.assert_close(Scorer(policy, 0)(*batch)[0].detach(), before, atol=1e-5, rtol=1e-5)


def test_the_cached_reference_is_the_live_one(tmp_path: Path) -> None:
    data = data_of()
    matched = cached(tmp_path, data, []).matched
    assert matched is not None
    with torch.no_grad():
        live, _ = Scorer(tiny_model(), 0)([data.prompts[i] for i in data.prompt_of], data.completions)
    torch.testing.assert_close(matched.rows(range(16), live.shape[1]), live, atol=1e-5, rtol=1e-5)


class FullDisk(Saves):
    """No room for the states."""

    def save(self, *arguments: Any) -> None:
        raise SaveError("the disk is full")


def test_a_save_that_fails_does_not_stop_the_training(tmp_path: Path) -> None:
    job, said = Job(tmp_path, DPO(), steps=3), []
    safety = Safety(FullDisk(tmp_path / "saves", said.append), Preemption(), said.append)
    assert len(job.train("run", safety, save_minutes=1e-9).metrics) == 3
    assert said == [f"step {step} of 3 was not saved: the disk is full; training goes on" for step in (1, 2)]


def test_sigterm_saves_and_stops_between_steps(tmp_path: Path) -> None:
    """A real signal, sent while step 2 is reported; the run goes on from there, and hears of the steps before."""
    job = Job(tmp_path, DPO(), steps=4)
    whole = job.train("whole")
    out, said, heard = tmp_path / "run", [], []
    out.mkdir()

    def on_step(metrics: dict[str, float], timing: dict[str, float]) -> None:
        heard.append(metrics["step"])
        if metrics["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with Preemption() as preemption:
        safety = Safety(Saves(tmp_path / "saves", said.append), preemption, said.append)
        with pytest.raises(Preempted, match="step 2 of 4"), preemption.deferred():
            job.trainer().run(job.steps, out, on_step, safety)
    assert heard == [1, 2]
    again = tmp_path / "again"
    again.mkdir()
    heard.clear()
    safety = Safety(Saves(tmp_path / "saves", said.append), Preemption(), said.append)
    trainer = job.trainer()
    trainer.run(job.steps, again, lambda metrics, timing: heard.append(metrics["step"]), safety)
    assert heard == [1, 2, 3, 4]
    assert rows(again / "metrics.jsonl") == whole.metrics
    for name, weights in trainer.policy.state_dict().items():
        assert torch.equal(weights, whole.weights[name])


def test_states_are_saved_as_time_goes_by(tmp_path: Path) -> None:
    """Every step is later than a billionth of a minute; after the last one, the policy itself is saved."""
    job, saved = Job(tmp_path, DPO(), steps=4), []

    class Counting(Saves):
        def save(self, step: int, *arguments: Any) -> None:
            saved.append(step)
            super().save(step, *arguments)

    safety = Safety(Counting(tmp_path / "saves", lambda text: None), Preemption(), lambda text: None)
    job.train("often", safety, save_minutes=1e-9)
    assert saved == [1, 2, 3]
    saved.clear()
    (tmp_path / "other").mkdir()
    job.train("seldom", Safety(Counting(tmp_path / "other", print), Preemption(), print), save_minutes=60)
    assert saved == []


def test_compiled_layers_change_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that needs no C++ compiler and counts what it is given."""
    job, graphs, compiled, plain = Job(tmp_path, DPO(), steps=3), [], [], torch.nn.Module.compile

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def compile_layer(module: Any, **options: Any) -> None:
        compiled.append(type(module).__name__)
        plain(module, backend=backend, **options)

    whole = job.train("whole")
    monkeypatch.setattr(torch.nn.Module, "compile", compile_layer)
    assert_same(whole, job.train("compiled", compile=True))
    assert compiled == ["LlamaDecoderLayer"] * 2
    assert graphs
    with pytest.raises(ValueError, match=r"compile and gradient_checkpointing"):
        TrainConfig(compile=True, gradient_checkpointing=True)
