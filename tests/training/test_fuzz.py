"""Every loss of conf/loss trains on the sandbox's model, whatever the lengths, labels and class mixes of its steps."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from engine import cached, rows
from family import TRAINED, loss_of
from filelock import FileLock
from places import ROOT

from kto_bench.component import build
from kto_bench.feedback.batches import Step, mismatch, schedule, units_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.feedback.tokenising import tokenise
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Feedback
from kto_bench.losses import Loss
from kto_bench.losses.sft import SFT
from kto_bench.models import ModelSource, load_policy, load_tokenizer, pad_id_of, save_policy
from kto_bench.sandbox.feedback import SandboxFeedback
from kto_bench.training import controls
from kto_bench.training.carried import Cached
from kto_bench.training.config import TrainConfig
from kto_bench.training.loop import Trainer

STEPS = 200


@pytest.fixture(scope="session")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``base`` and ``sft``: a very small model of the sandbox, and the same after fine-tuning."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "sandbox_starts"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            (folder / "base").mkdir(parents=True)
            node = yaml.safe_load((ROOT / "conf/model/sandbox_tiny.yaml").read_text())
            node["architecture"] |= {"hidden_size": 16, "intermediate_size": 32}
            node["pretrain"] |= {"tokens": 50_000}
            build(node, ModelSource, "model").build(folder / "base", 0, lambda done, total: None)
            _fine_tune(folder)
            (folder / "done").touch()
    return folder


def _fine_tune(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "base")
    demonstrations = SandboxFeedback(name="sandbox", pairs=200, demonstration_rows=200).demonstrations()
    assert demonstrations is not None
    data = tokenise(demonstrations, Encoder(tokenizer, 64, 64))
    steps = schedule(
        units_of(data, "demonstrations"),
        data.prompt_of,
        completions_per_step=16,
        epochs=1,
        steps=40,
        seed=0,
        mismatched=False,
    )
    model = load_policy(folder / "base")
    config = TrainConfig(learning_rate=3e-3, completions_per_step=16)
    (folder / "sft").mkdir()
    trainer = Trainer(model, pad_id_of(tokenizer), data, SFT(), config, Cached())
    trainer.run(steps, folder / "sft", lambda metrics, timing: None)
    losses = [row["loss"] for row in rows(folder / "sft" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.5, "SFT has taught nothing"
    save_policy(folder / "sft", model, tokenizer)


def fuzzed_data(tokenizer: object, random: np.random.Generator) -> TokenisedFeedback:
    """The sandbox's pairs with completions cut or repeated to between 1 and 120 tokens."""
    source = SandboxFeedback(name="sandbox", pairs=60, demonstration_rows=1)
    rows_ = source.load().rows
    data = tokenise(Feedback("paired", rows_), Encoder(tokenizer, 64, 128))
    lengths = random.choice([1, 2, 3, 8, 20, 120], p=[0.1, 0.1, 0.2, 0.3, 0.2, 0.1], size=len(data.completions))
    fuzzed = [(ids * length)[:length] for ids, length in zip(data.completions, lengths.tolist(), strict=True)]
    return replace(data, completions=fuzzed)


def fuzzed_steps(data: TokenisedFeedback, loss: Loss, random: np.random.Generator) -> list[Step]:
    """Steps of 1 to 6 units, of which many hold one class only where the loss can do with one."""
    everything = units_of(data, loss.feedback)
    steps = []
    while len(steps) < STEPS:
        units = everything[random.choice(len(everything), size=random.integers(1, 7), replace=False)]
        if loss.feedback == "binary" and random.random() < 0.4:  # chosen completions have even numbers
            units = units - units % 2 + random.integers(2)
        pairs = mismatch(units.ravel(), data.prompt_of) if loss.needs_kl else np.empty((0, 2), dtype=np.int64)
        if not loss.needs_kl or len(pairs):
            steps.append(Step(units, pairs))
    return steps


@pytest.mark.parametrize("start", ["base", "sft"])
@pytest.mark.parametrize("name", TRAINED)
def test_200_fuzzed_steps(name: str, start: str, starts: Path, tmp_path: Path) -> None:
    loss, random = loss_of(name), np.random.default_rng([TRAINED.index(name), start == "sft"])
    tokenizer, model = load_tokenizer(starts / start), load_policy(starts / start)
    if loss.control_tokens:
        controls.add_to_tokenizer(tokenizer, loss.control_tokens)
        controls.add_to_model(model, tokenizer, loss.control_tokens, seed=0)
    data = fuzzed_data(tokenizer, random)
    steps = fuzzed_steps(data, loss, random)
    if loss.control_tokens:
        data = controls.conditioned(data, tokenizer, loss.control_tokens)
    reference = cached(tmp_path, data, steps, load_policy(starts / start)) if loss.needs_reference else Cached()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config = TrainConfig(learning_rate=1e-3, completions_per_step=6, schedule="constant")
    Trainer(model, pad_id_of(tokenizer), data, loss, config, reference).run(
        steps, tmp_path, lambda metrics, timing: None
    )
    metrics = rows(tmp_path / "metrics.jsonl")
    assert len(metrics) == STEPS
    assert all(math.isfinite(value) for row in metrics for value in row.values())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert any((value != before[key]).any() for key, value in model.state_dict().items())
    assert max(row["grad_norm"] for row in metrics) > 0
