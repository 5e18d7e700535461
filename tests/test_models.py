"""Where policies come from: local checkpoints of several architectures, and models made from scratch."""

from __future__ import annotations

import json
import shutil
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
    positions_of,
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


class ShortCorpus(RepeatingCorpus):
    """Gives 100 tokens."""

    def most_tokens(self) -> int:
        return 100


def test_a_model_trains_on_no_more_than_its_corpus_gives(tmp_path: Path) -> None:
    settings = PretrainConfig(tokens=200, sequence_tokens=16, sequences_per_step=2)
    steps: list[int] = []
    for name, corpus in (("short", ShortCorpus()), ("endless", RepeatingCorpus())):
        (tmp_path / name).mkdir()
        scratch(corpus=corpus, pretrain=settings).build(tmp_path / name, 0, lambda done, _: steps.append(done))
    assert steps == [1, 2, 3, 1, 2, 3, 4, 5, 6], "whole steps of 32 tokens"
    said = [json.loads((tmp_path / name / "pretraining.json").read_text()) for name in ("short", "endless")]
    assert said[0] == {"tokens": 96, "asked_tokens": 200, "most_tokens": 100}
    assert said[1] == {"tokens": 192, "asked_tokens": 200, "most_tokens": None}


def test_half_precision_is_another_model_and_full_precision_goes_without_saying() -> None:
    one = scratch().identity()
    assert "precision" not in one["pretrain"]
    half = scratch(pretrain=PretrainConfig(tokens=8_000, sequence_tokens=16, learning_rate=1e-2, precision="bf16"))
    assert half.identity()["pretrain"] == {**one["pretrain"], "precision": "bf16"}


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


IDS = torch.tensor([[1, 7, 8, 9, 10, 11]])


def adapter_for(folder: Path, base: str, model: Any = None, **changes: Any) -> torch.Tensor:
    """Save a LoRA adapter to ``model`` that names ``base``; returns the logits of both together."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    settings = {"target_modules": ["q_proj", "down_proj"], "r": 2, "init_lora_weights": False, **changes}
    adapter = get_peft_model(model or tiny_model(), LoraConfig(**settings))
    adapter.save_pretrained(folder)
    rename_base(folder, base_model_name_or_path=base)
    with torch.no_grad():
        return adapter(IDS).logits


def rename_base(folder: Path, **changes: Any) -> None:
    """Change what the adapter in ``folder`` says of itself."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))


@pytest.fixture
def adapter(tmp_path: Path, checkpoint: Path) -> Path:
    """An adapter to the tiny Llama of ``checkpoint``, with no tokenizer of its own."""
    adapter_for(tmp_path / "adapter", str(checkpoint))
    return tmp_path / "adapter"


def built(tmp_path: Path, path: Path | str, **changes: Any) -> Path:
    """The artifact of a published checkpoint."""
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    Pretrained(name="mine", path=str(path), **changes).build(artifact, 0, no_progress)
    return artifact


def refused(path: Path) -> Any:
    return build({"_target_": "kto_bench.models.Pretrained", "name": "x", "path": str(path)}, ModelSource, "model")


def test_an_adapter_is_merged_into_its_base(tmp_path: Path, checkpoint: Path) -> None:
    expected = adapter_for(tmp_path / "adapter", str(checkpoint))
    artifact = built(tmp_path, tmp_path / "adapter")
    for folder in ("adapter", "checkpoint"):  # what becomes of them later does not matter
        shutil.rmtree(tmp_path / folder)
    loaded = load_policy(artifact)
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert not list(artifact.glob("adapter*"))
    assert positions_of(artifact) == 256
    torch.testing.assert_close(loaded(IDS).logits, expected, atol=1e-5, rtol=0)
    assert (expected - tiny_model()(IDS).logits).abs().max() > 1e-2
    assert load_tokenizer(artifact).apply_chat_template(PROMPT, tokenize=False) == "<s><user>w1 w2"


def test_an_adapter_is_merged_in_fp32_and_used_as_asked(tmp_path: Path) -> None:
    """The base is stored in bf16 and the policy computes in bf16, but the sum of the two is not rounded on the way."""
    half = tiny_model().to(torch.bfloat16)
    save_policy(tmp_path / "base", half, tiny_tokenizer())
    expected = adapter_for(tmp_path / "adapter", str(tmp_path / "base"), half.float())
    artifact = built(tmp_path, tmp_path / "adapter", dtype="bfloat16")
    assert load_policy(artifact).dtype == torch.bfloat16
    (artifact / "checkpoint.json").write_text("{}")
    torch.testing.assert_close(load_policy(artifact)(IDS).logits, expected, atol=1e-5, rtol=0)


def test_an_adapters_own_tokenizer_is_taken_where_it_has_one(tmp_path: Path, adapter: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    tokenizer.save_pretrained(adapter)
    artifact = built(tmp_path, adapter)
    assert load_tokenizer(artifact).apply_chat_template(PROMPT, tokenize=False) == "w1 w2!"


def test_a_relative_base_is_seen_from_the_current_folder(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = Pretrained(name="x", path=str(adapter)).identity()
    rename_base(adapter, base_model_name_or_path="checkpoint")
    monkeypatch.chdir(tmp_path)
    assert Pretrained(name="x", path=str(adapter)).identity() == absolute
    load_policy(built(tmp_path, adapter))


def test_the_identity_of_an_adapter_is_its_content_and_its_bases(
    tmp_path: Path, checkpoint: Path, adapter: Path
) -> None:
    def identity() -> dict[str, Any]:
        return Pretrained(name="x", path=str(adapter)).identity()

    before = identity()
    moved = adapter.rename(tmp_path / "elsewhere")
    adapter = moved
    base = checkpoint.rename(tmp_path / "moved")
    rename_base(adapter, base_model_name_or_path=str(base))
    assert identity() == before
    assert str(tmp_path) not in json.dumps(before)
    seen = [before]
    rename_base(adapter, lora_alpha=3)
    seen.append(identity())
    adapter_for(tmp_path / "other", str(base), r=3)
    shutil.copy(tmp_path / "other" / "adapter_model.safetensors", adapter)
    seen.append(identity())
    tiny_tokenizer().save_pretrained(adapter)
    seen.append(identity())
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    seen.append(identity())
    for revision in ("main", "v2"):
        rename_base(adapter, base_model_name_or_path="some/base", revision=revision)
        seen.append(identity())
        assert seen[-1]["path"]["base"] == {"path": "some/base", "revision": revision}
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])


def test_adapters_that_cannot_be_used_are_refused_before_anything_runs(adapter: Path, checkpoint: Path) -> None:
    rename_base(adapter, base_model_name_or_path="./gone")
    with pytest.raises(
        ConfigError, match=r"^model\.path: the adapter '.*adapter' names the base './gone', which is no"
    ):
        refused(adapter)
    rename_base(adapter, base_model_name_or_path=None)
    with pytest.raises(ConfigError, match=r"^model\.path: the adapter .* names no base; put"):
        refused(adapter)
    rename_base(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(ConfigError, match=r"^model\.path: .*is itself an adapter; merge that one"):
        refused(adapter)
    rename_base(adapter, base_model_name_or_path=str(checkpoint), megatron_config={"layers": 1})
    with pytest.raises(ConfigError, match=r"^model\.path: .*is an adapter to a Megatron model"):
        refused(adapter)
    rename_base(adapter, megatron_config=None)
    refused(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"^model\.path: .*has no adapter_model\.safetensors, and pickled weights"):
        refused(adapter)
    (adapter / "adapter_config.json").write_text("{half")
    with pytest.raises(ConfigError, match=r"^model\.path: adapter_config\.json of the adapter .* cannot be read"):
        refused(adapter)


def test_a_base_that_cannot_be_reached_is_named(tmp_path: Path, adapter: Path) -> None:
    rename_base(adapter, base_model_name_or_path="some/base")
    with pytest.raises(ConfigError, match=r"(?s)names the base 'some/base', which cannot be loaded; make it available"):
        built(tmp_path, adapter)


def test_a_quantised_base_is_refused(tmp_path: Path, adapter: Path, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (checkpoint / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(ConfigError, match=r"^model\.path: .*which is quantised, .*; name the original"):
        built(tmp_path, adapter)


def test_a_base_with_pickled_weights_only_is_refused(tmp_path: Path, adapter: Path, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict(), checkpoint / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"(?s)which cannot be loaded; .*safetensors"):
        built(tmp_path, adapter)


@pytest.mark.parametrize("architecture", ["gpt_neox", "deeper", "shallower", "wider"])
def test_an_adapter_to_another_model_is_refused(tmp_path: Path, checkpoint: Path, architecture: str) -> None:
    """Also where only some of its layers are missing or too many: peft would go on with the others."""
    from transformers import AutoModelForCausalLM

    targets = {"gpt_neox": ["dense_h_to_4h"]}.get(architecture, ["q_proj"])
    changes = {
        "deeper": {"num_hidden_layers": 3},
        "shallower": {"num_hidden_layers": 1},
        "wider": {"hidden_size": 64},
    }.get(architecture)
    config = tiny_model("llama" if changes else architecture).config
    config.update(changes or {})
    adapter_for(tmp_path / "adapter", str(checkpoint), AutoModelForCausalLM.from_config(config), target_modules=targets)
    with pytest.raises(ConfigError, match=r"(?s)^model\.path: .*names the base .*which does not fit its weights"):
        built(tmp_path, tmp_path / "adapter")


def test_an_adapter_that_weights_cannot_hold_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(tiny_model(), prompts).save_pretrained(tmp_path / "adapter")
    rename_base(tmp_path / "adapter", base_model_name_or_path=str(checkpoint))
    with pytest.raises(ConfigError, match=r"is a PROMPT_TUNING adapter, which no weights can hold; choose a LoRA"):
        built(tmp_path, tmp_path / "adapter")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of hub repositories; offline, they are taken from there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def publish(hub: Path, name: str, folder: Path, revision: str) -> None:
    """Put ``folder`` into the cache as a commit of the repository ``name`` that ``revision`` names."""
    repository, commit = hub / f"models--{name.replace('/', '--')}", "0123456789" * 4
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(commit)


def test_adapter_and_base_may_be_on_the_hub_each_with_its_revision(tmp_path: Path, checkpoint: Path, hub: Path) -> None:
    expected = adapter_for(tmp_path / "adapter", "some/base", revision="v2")
    publish(hub, "some/base", checkpoint, "v2")
    publish(hub, "some/adapter", tmp_path / "adapter", "v3")
    source = Pretrained(name="x", path="some/adapter", revision="v3")
    assert (source.identity()["path"], source.identity()["revision"]) == ("some/adapter", "v3")
    artifact = built(tmp_path, "some/adapter", revision="v3")
    shutil.rmtree(hub)
    torch.testing.assert_close(load_policy(artifact)(IDS).logits, expected, atol=1e-5, rtol=0)
    assert load_tokenizer(artifact).chat_template


def test_a_hub_adapter_to_a_local_base_is_refused(tmp_path: Path, checkpoint: Path, hub: Path, adapter: Path) -> None:
    publish(hub, "some/adapter", adapter, "main")
    with pytest.raises(ConfigError, match=r"'some/adapter' names the base .*is a local folder here; download"):
        built(tmp_path, "some/adapter")


def test_a_hub_checkpoint_that_is_no_adapter_stays_a_pointer(tmp_path: Path, checkpoint: Path, hub: Path) -> None:
    publish(hub, "some/base", checkpoint, "main")
    artifact = built(tmp_path, "some/base")
    assert not list(artifact.glob("*.safetensors"))
    torch.testing.assert_close(load_policy(artifact)(IDS).logits, tiny_model()(IDS).logits)


def test_a_checkpoint_that_is_nowhere_is_refused(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.path: cannot load 'no/where'"):
        built(tmp_path, "no/where")
