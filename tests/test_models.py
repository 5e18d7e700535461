"""Where policies come from: local checkpoints of several architectures, and models made from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES, tiny_model, tiny_tokenizer

from kto_bench.component import ConfigError, build
from kto_bench.feedback.templates import TURNS
from kto_bench.models import (
    Corpus,
    ModelSource,
    Pretrained,
    Scratch,
    load_policy,
    load_tokenizer,
    pad_id_of,
    save_policy,
)
from kto_bench.training.config import PretrainConfig

PROMPT = [{"role": "user", "content": "w1 w2"}]


class RepeatingCorpus(Corpus):
    """w0 w1 w2 w3 over and over: learnt in a few steps."""

    name: str = "repeating"

    def tokenizer(self) -> Any:
        return tiny_tokenizer()

    def stream(self, tokens: int, seed: int) -> np.ndarray:
        return np.arange(tokens) % 4 + 7


def no_progress(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_local_checkpoint_is_kept_and_loaded(tmp_path: Path, architecture: str) -> None:
    original, checkpoint, artifact = tiny_model(architecture), tmp_path / "checkpoint", tmp_path / "artifact"
    save_policy(checkpoint, original, tiny_tokenizer())
    artifact.mkdir()
    Pretrained(name="mine", path=str(checkpoint)).build(artifact, 0, no_progress)
    (checkpoint / "model.safetensors").unlink()  # what becomes of the folder later does not matter
    loaded = load_policy(artifact)
    assert not loaded.training
    ids = torch.tensor([[1, 7, 8, 9]])
    torch.testing.assert_close(loaded(ids).logits, original(ids).logits)
    assert load_tokenizer(artifact).apply_chat_template(PROMPT, tokenize=False) == "<s><user>w1 w2"


def test_a_base_model_without_template_gets_the_papers_turns(tmp_path: Path, checkpoint: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(checkpoint)
    (checkpoint / "chat_template.jinja").unlink(missing_ok=True)
    Pretrained(name="mine", path=str(checkpoint)).build(tmp_path, 0, no_progress)
    assert load_tokenizer(tmp_path).chat_template == TURNS


def test_the_identity_of_a_local_checkpoint_is_its_content(tmp_path: Path, checkpoint: Path) -> None:
    before = Pretrained(name="a", path=str(checkpoint)).identity()
    moved = checkpoint.rename(tmp_path / "moved")
    assert Pretrained(name="b", path=str(moved)).identity() == before
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert Pretrained(name="a", path=str(moved)).identity() != before


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), checkpoint / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"cannot load .*safetensors"):
        Pretrained(name="mine", path=str(checkpoint)).build(tmp_path, 0, no_progress)


def test_a_missing_folder_is_refused_before_anything_runs() -> None:
    node = {"_target_": "kto_bench.models.Pretrained", "name": "x", "path": "./no/such"}
    with pytest.raises(ConfigError, match=r"model.path: './no/such' is not allowed: there is no such folder"):
        build(node, ModelSource, "model")


def test_a_hub_checkpoint_is_told_by_id_and_revision() -> None:
    """What a hub id resolves to is only reachable on a network; its identity is not."""
    one = Pretrained(name="p", path="EleutherAI/pythia-1.4b", revision="step1000").identity()
    assert (one["path"], one["revision"]) == ("EleutherAI/pythia-1.4b", "step1000")


def test_the_content_of_a_template_file_is_in_the_identity(tmp_path: Path, checkpoint: Path) -> None:
    template = tmp_path / "mine.jinja"
    identities = []
    for text in ("{{ messages[0]['content'] }}", "{{ messages[-1]['content'] }}"):
        template.write_text(text)
        identities.append(Pretrained(name="x", path=str(checkpoint), chat_template=str(template)).identity())
    assert identities[0] != identities[1]
    node = {"_target_": "kto_bench.models.Pretrained", "name": "x", "path": "a/b", "chat_template": "mien.jinja"}
    with pytest.raises(ConfigError, match=r"model\.chat_template: 'mien.jinja' is not allowed: choose own, turns"):
        build(node, ModelSource, "model")


def scratch(**changes: Any) -> Scratch:
    values: dict[str, Any] = {
        "name": "tiny",
        "architecture": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "corpus": RepeatingCorpus(),
        "pretrain": PretrainConfig(tokens=8_000, sequence_tokens=16, learning_rate=1e-2),
        **changes,
    }
    return Scratch(**values)


def test_a_model_from_scratch_learns_its_corpus(tmp_path: Path) -> None:
    seen: list[int] = []
    scratch().build(tmp_path, 0, lambda done, total: seen.append(done / total))
    model = load_policy(tmp_path)
    following = model(torch.tensor([[7, 8, 9, 10, 7, 8]])).logits[0, -1].argmax()
    assert following == 9
    assert seen[-1] == 1
    assert pad_id_of(load_tokenizer(tmp_path)) == 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        scratch().build(tmp_path / name, seed, no_progress)
        weights.append(load_policy(tmp_path / name).get_input_embeddings().weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_unknown_architecture_is_refused() -> None:
    node = {
        "_target_": "kto_bench.models.Scratch",
        "name": "x",
        "architecture": {"model_type": "lama"},
        "corpus": {"_target_": f"{__name__}.RepeatingCorpus"},
        "pretrain": {"tokens": 10},
    }
    with pytest.raises(ConfigError, match=r"model.architecture: .*lama.*llama or gpt_neox"):
        build(node, ModelSource, "model")
