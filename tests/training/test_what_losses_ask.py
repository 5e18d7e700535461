"""What a loss may ask of the engine beyond log-probabilities, each against a slow and plain way of doing it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from engine import Job, rows
from family import loss_of
from small_run import MakeConfig
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import desirable_of, schedule, units_of
from kto_bench.feedback.tokenising import tokenise
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, Feedback
from kto_bench.losses import Completions, Loss, Output
from kto_bench.models import load_policy, load_tokenizer, save_policy
from kto_bench.preemption import Preemption
from kto_bench.run import describe, execute
from kto_bench.screen import Screen
from kto_bench.stages import Stages
from kto_bench.store import Store
from kto_bench.training import controls
from kto_bench.training.carried import Cached, save_synced
from kto_bench.training.config import LoraSettings, TrainConfig
from kto_bench.training.logprobs import Scorer
from kto_bench.training.loop import Safety, Trainer
from kto_bench.training.lora import add_adapter
from kto_bench.training.saves import Saves
from kto_bench.watch import Watch

# ---- a reference that is synced with the policy


@pytest.mark.parametrize("every", [1, 3, 20])
@pytest.mark.parametrize("name", ["humanline_dpo", "humanline_kto"])
def test_a_synced_reference_is_the_policy_of_that_step(name: str, every: int, tmp_path: Path) -> None:
    """Against a second model that is overwritten with the policy's weights before the update of every k-th step."""
    loss = loss_of(name, sync_steps=every)
    job = Job(tmp_path, loss, steps=7)
    metrics = job.train("ours").metrics
    policy = tiny_model()
    reference = deepcopy(policy)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3, weight_decay=0.0)
    for number, step in enumerate(job.steps, start=1):

        def completions(pairs: np.ndarray, policy: Any = policy, reference: Any = reference) -> Completions:
            texts = [job.data.prompts[p] for p in pairs[:, 0]], [job.data.completions[c] for c in pairs[:, 1]]
            log_probs, mask = Scorer(policy, 0)(*texts)
            with torch.no_grad():
                return Completions(log_probs, mask, Scorer(reference, 0)(*texts)[0])

        columns = [completions(np.stack([job.data.prompt_of[units], units], axis=1)) for units in step.units.T]
        arguments: list[Any] = list(columns)
        if loss.feedback == "binary":
            with torch.no_grad():
                point = loss.reference_point(completions(step.mismatched), {})
            arguments += [torch.from_numpy(desirable_of(job.data)[step.units[:, 0]]), point.value]
            assert metrics[number - 1]["kl_raw"] == pytest.approx(float(point.statistics["kl_raw"]), abs=1e-5)
        mean = loss(*arguments).losses.mean()
        mean.backward()
        assert metrics[number - 1]["loss"] == pytest.approx(mean.item(), abs=1e-5)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        if number % every == 0:
            reference.load_state_dict(policy.state_dict())
        optimiser.step()
        optimiser.zero_grad()


def test_syncing_matters(tmp_path: Path) -> None:
    """Else the comparison above would hold for a reference that stays the start."""
    jobs = {every: Job(tmp_path / str(every), loss_of("humanline_dpo", sync_steps=every), 7) for every in (1, 3, 20)}
    last = {every: job.train("run").metrics[-1]["loss"] for every, job in jobs.items()}
    assert len({round(value, 4) for value in last.values()}) == 3


# ---- means of the past


def test_running_means_are_of_all_earlier_examples(tmp_path: Path) -> None:
    """BCO's delta is the mean reward of every example before the step, whatever its class."""
    metrics = Job(tmp_path, loss_of("bco")).train("run").metrics
    rewards = [row["rewards/mean"] for row in metrics]  # 8 examples in every step
    assert metrics[0]["delta"] == 0
    for number in range(1, 10):
        assert metrics[number]["delta"] == pytest.approx(sum(rewards[:number]) / number, abs=1e-7)
    assert abs(metrics[-1]["delta"]) > 1e-3


# ---- a value head


class Critic(Loss):
    """Likelihood, and a value head that learns the number of tokens that are left; ``weight`` of the latter."""

    feedback: ClassVar[Any] = "demonstrations"
    needs_values: ClassVar[bool] = True
    weight: float = 1.0

    def __call__(self, completions: Completions) -> Output:
        """Losses of n demonstrations."""
        assert completions.values is not None
        left = completions.mask.flip(-1).cumsum(-1).flip(-1)
        error = torch.where(completions.mask, (completions.values - left) ** 2, 0.0).sum(-1)
        every = torch.ones(len(error), dtype=torch.bool)
        return Output(self.weight * error - completions.policy_log_prob, {"error": (error.detach(), every)})


def test_the_value_head_learns_and_leaves_the_policy_alone(tmp_path: Path) -> None:
    jobs = {weight: Job(tmp_path / str(weight), Critic(weight=weight)) for weight in (0.0, 1.0)}
    changes = {"learning_rate": 1e-2, "max_grad_norm": 1e9}
    without, with_head = (job.train("run", **changes) for job in jobs.values())
    assert with_head.metrics[-1]["error"] < 0.5 * with_head.metrics[0]["error"]
    assert without.metrics[-1]["error"] == without.metrics[0]["error"]
    for name, weights in without.weights.items():
        assert torch.equal(with_head.weights[name], weights), name


@pytest.mark.parametrize("padding_free", [True, False])
def test_a_value_is_of_the_state_before_its_token(padding_free: bool) -> None:
    scorer = Scorer(tiny_model(), 0, padding_free=padding_free, value_head_seed=3)
    prompts, completions = [[1, 9], [1, 8, 7]], [[10, 11, 12], [13, 14]]
    assert (scorer(prompts, completions)[2] == 0).all(), "it starts at 0"
    with torch.no_grad():
        scorer.value_head.layers[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    _, mask, values = scorer(prompts, completions)
    assert values.shape == mask.shape == (2, 3)
    assert (values[~mask] == 0).all()
    assert (values[mask] != 0).all()
    _, _, changed = scorer(prompts, [[10, 11, 40], [13, 41]])
    torch.testing.assert_close(changed, values)
    _, _, changed = scorer(prompts, [[10, 42, 12], [13, 14]])
    assert ((changed - values).abs() > 1e-6).tolist() == [[False, False, True], [False, False, False]]
    hidden = tiny_model().get_decoder()(torch.tensor([[1, 9, 10, 11]]))[0][0]
    torch.testing.assert_close(scorer.value_head(hidden[1:]), values[0])


def test_the_seed_of_the_value_head_is_its_own() -> None:
    def first_layer(seed: int) -> Tensor:
        torch.manual_seed(17)
        before = torch.random.get_rng_state()
        weight = Scorer(tiny_model(), 0, value_head_seed=seed).value_head.layers[0].weight
        torch.manual_seed(17)
        assert torch.equal(before, torch.random.get_rng_state())
        return weight

    assert torch.equal(first_layer(1), first_layer(1))
    assert not torch.equal(first_layer(1), first_layer(2))


# ---- control tokens

CONTROLS = ("<|good|>", "<|bad|>")


@pytest.mark.parametrize("spare_rows", [0, 8])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "tied"])
def test_control_tokens_get_rows_like_the_others(architecture: str, spare_rows: int, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    size = len(tokenizer) + spare_rows
    model = tiny_model("gemma2" if architecture == "tied" else architecture, size)
    before = model.get_output_embeddings().weight[:size].clone()
    controls.add_to_tokenizer(tokenizer, CONTROLS)
    inputs = model.get_input_embeddings().weight[:size].clone()
    controls.add_to_model(model, tokenizer, CONTROLS, seed=5)
    ids = tokenizer.convert_tokens_to_ids(list(CONTROLS))
    assert ids == [64, 65]
    save_policy(tmp_path, model, tokenizer)
    saved, loaded = load_policy(tmp_path), load_tokenizer(tmp_path)
    assert loaded.convert_tokens_to_ids(list(CONTROLS)) == ids
    weight = saved.get_output_embeddings().weight
    assert len(weight) == saved.config.vocab_size == max(66, size)
    others = [row for row in range(size) if row not in ids]
    torch.testing.assert_close(weight[others], before[others])
    given = saved.get_input_embeddings().weight
    tied = given.data_ptr() == weight.data_ptr()
    assert tied == saved.config.tie_word_embeddings
    for row in ids:
        assert torch.allclose(weight[row], before[others].mean(0)) != tied
        away = (given[row] - inputs[others].mean(0)) / inputs[others].std(0)
        assert 0.6 < away.square().mean() < 1.6, "drawn like the others"
    assert not torch.allclose(given[ids[0]], given[ids[1]])
    again = given[ids].clone()
    controls.add_to_tokenizer(loaded, CONTROLS)
    controls.add_to_model(saved, loaded, CONTROLS, seed=6)
    assert torch.equal(saved.get_input_embeddings().weight[ids], again), "a second training goes on with them"
    assert loaded.chat_template == tokenizer.chat_template
    assert saved(torch.tensor([[1, *ids, 9]])).logits.isfinite().all()


def test_what_is_trained_after_is_what_is_asked_for() -> None:
    """The prompts of desirable completions are the generation prompts, to the last id, those that are cut as well."""
    tokenizer = tiny_tokenizer()
    controls.add_to_tokenizer(tokenizer, CONTROLS)
    prompts = ["w1", "w1 w2 w3 w4 w5 w6 w7 w8 w9", "w3 <|bad|> w4"]
    binary = [
        Binary(f"{number}-{label}", [{"role": "user", "content": prompt}], f"w{10 + number}", label)
        for number, prompt in enumerate(prompts)
        for label in (True, False)
    ]
    encoder = Encoder(tokenizer, 8, 8)
    data = controls.conditioned(tokenise(Feedback("binary", binary), encoder), tokenizer, CONTROLS)
    good, bad = tokenizer.convert_tokens_to_ids(list(CONTROLS))
    for number, row in enumerate(binary):
        prompt = data.prompts[data.prompt_of[number]]
        asked = encoder.prompt(row.prompt)
        assert len(prompt) <= 8
        assert prompt == (asked if row.label else [*asked[:-1], bad])
        assert asked[-1] == good
        assert prompt.count(good) + prompt.count(bad) == 1, "a control token in a user's text is text"


def test_a_template_without_a_generation_prompt_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    controls.add_to_tokenizer(tokenizer, CONTROLS)
    data = tokenise(
        Feedback("binary", [Binary("0", [{"role": "user", "content": "w1"}], "w2", True)]),
        Encoder(tiny_tokenizer(), 8, 8),
    )
    with pytest.raises(ConfigError, match=r"model\.chat_template.*<\|good\|>"):
        controls.conditioned(data, tokenizer, CONTROLS)


def test_a_checkpoint_trained_with_control_tokens_asks_for_the_desirable(make: MakeConfig) -> None:
    """Through the stages: its own template ends with the token, and the two tokens have learnt different things."""
    config = make("loss=csft", "train.steps=6")
    stages = Stages(config, Watch(Screen(""), lambda metrics, timing: None, Preemption()))
    store = Store(config.run.artifacts, on_wait=lambda stage, holder: None)
    folder = store.fetch(stages.policy).folder
    tokenizer, model = load_tokenizer(folder), load_policy(folder)
    good, bad = tokenizer.convert_tokens_to_ids(list(CONTROLS))
    assert Encoder(tokenizer, 64, 8).prompt([{"role": "user", "content": "w1"}])[-1] == good
    rows_ = model.get_input_embeddings().weight
    assert not torch.allclose(rows_[good], rows_[bad])
    generated = (store.fetch(stages.evaluation.generate).folder / "completions.jsonl").read_text()
    assert "<|good|>" not in generated
    assert rows(folder / "metrics.jsonl")[-1]["loss"] < rows(folder / "metrics.jsonl")[0]["loss"]


@pytest.mark.parametrize("known", ["w1", "</s>"])
def test_a_token_with_another_meaning_is_refused(known: str) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(ConfigError, match=f"'{known}' is in the tokenizer's vocabulary"):
        controls.add_to_tokenizer(tokenizer, ("<|good|>", known))
    assert "<|good|>" not in tokenizer.get_vocab()


def test_several_templates_are_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "{{ 'a' }}", "tools": "{{ 'b' }}"}
    with pytest.raises(ConfigError, match="several templates"):
        controls.add_to_tokenizer(tokenizer, CONTROLS)


def test_a_head_with_a_bias_makes_new_tokens_no_likelier() -> None:
    """GPT-J's head has one; a bias of 0 among those of -3 would make a control token the likeliest output."""
    tokenizer = tiny_tokenizer()
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gptj", vocab_size=64, n_embd=32, n_layer=1, n_head=4, rotary_dim=8)
    )
    torch.nn.init.constant_(model.get_output_embeddings().bias, -3.0)
    controls.add_to_tokenizer(tokenizer, CONTROLS)
    controls.add_to_model(model, tokenizer, CONTROLS, seed=0)
    probabilities = model(torch.tensor([[1, 9, 12]])).logits.softmax(-1)[0, -1]
    assert (probabilities[64:] < 2 / 66).all()


def test_the_policy_learns_to_tell_the_tokens_apart(tmp_path: Path) -> None:
    """After training, what people liked is likelier after the one, what they did not after the other."""
    tokenizer, model, loss = tiny_tokenizer(), tiny_model(), loss_of("csft")
    controls.add_to_tokenizer(tokenizer, CONTROLS)
    controls.add_to_model(model, tokenizer, CONTROLS, seed=0)
    encoder = Encoder(tokenizer, 8, 8)
    rows_ = [
        Binary(f"{number}{label}", [{"role": "user", "content": f"w{number}"}], "w30 w31" if label else "w40", label)
        for number in range(8)
        for label in (True, False)
    ]
    data = controls.conditioned(tokenise(Feedback("binary", rows_), encoder), tokenizer, CONTROLS)
    steps = schedule(
        units_of(data, "binary"), data.prompt_of, completions_per_step=16, epochs=1, steps=60, seed=0, mismatched=False
    )
    config = TrainConfig(learning_rate=3e-3, completions_per_step=16)
    Trainer(model, 0, data, loss, config, Cached()).run(steps, tmp_path, lambda metrics, timing: None)
    good, bad = tokenizer.convert_tokens_to_ids(list(CONTROLS))

    def gain(text: str) -> float:
        """How much likelier after the first token, in nats."""
        prompt, completion = encoder.prompt([{"role": "user", "content": "w20"}]), encoder.completion(text)
        assert prompt[-1] == good
        log_probs, _ = Scorer(model, 0)([prompt, [*prompt[:-1], bad]], [completion, completion])
        return float((log_probs[0] - log_probs[1]).sum())

    assert gain("w30 w31") > 1
    assert gain("w40") < -1


def test_control_tokens_with_adapters_are_refused(make: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"train\.lora: 'csft' adds control tokens"):
        make("loss=csft", "train.lora={rank: 2}")


# ---- warnings


def test_warnings_are_told_and_kept(make: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = make("loss=kto", "loss.desirable_weight=4", "train.steps=2")
    stages = Stages(config, Watch(Screen("run"), lambda metrics, timing: None, Preemption()))
    folder = Store(config.run.artifacts, on_wait=lambda stage, holder: None).fetch(stages.policy).folder
    (kept,) = json.loads((folder / "data.json").read_text())["warnings"]
    assert "1 to 1.5" in kept
    assert "warning:" in capsys.readouterr().err


def test_warnings_are_in_the_record_of_a_run_that_diverged(make: MakeConfig) -> None:
    config = make("loss=kto", "loss.desirable_weight=4", "train.learning_rate=1e38", "train.schedule=constant")
    assert execute(config) == "failed"
    status = json.loads((describe(config)[1].folder / "status.json").read_text())
    assert "TrainingDivergedError" in status["traceback"]
    assert "warning: desirable_weight" in status["traceback"]


class FullDisk:
    """Fails at the second save, as a disk does that has filled up."""

    def __init__(self) -> None:
        self.saves = 0

    def __call__(self, folder: Path, cached: Any) -> None:
        self.saves += 1
        if self.saves == 2:
            raise OSError(28, "No space left on device")
        save_synced(folder, cached)


def test_a_full_disk_does_not_stop_a_synced_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kto_bench.training.loop.save_synced", FullDisk())
    job, said = Job(tmp_path, loss_of("humanline_dpo"), steps=4), []
    safety = Safety(Saves(tmp_path / "saves", said.append), Preemption(), said.append)
    assert len(job.train("run", safety, save_minutes=1e-9).metrics) == 4
    assert len(said) == 1
    assert "step 2 of 4 was not saved" in said[0]
    assert "No space left" in said[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_value_head_beside_weights_in_half_precision(precision: str, tmp_path: Path) -> None:
    policy = add_adapter(tiny_model().bfloat16(), LoraSettings(rank=2), seed=0).get_base_model()
    scorer = Scorer(policy, 0, precision=precision, value_head_seed=0)
    log_probs, _, values = scorer([[1, 9]], [[10, 11]])
    assert values.dtype == log_probs.dtype == torch.float32
    values.sum().backward()
    assert scorer.value_head.layers[-1].bias.grad is not None


def test_a_reference_point_without_a_reference_trains(tmp_path: Path) -> None:
    """The mismatched pairs are scored by the policy alone."""
    metrics = Job(tmp_path, loss_of("kto_no_reference")).train("run", learning_rate=1e-3).metrics
    assert all(row["entropy"] > 0 for row in metrics)
