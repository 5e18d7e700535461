"""Policies and tokenizers: where they come from, how they are loaded and saved.

A model source describes the *base* checkpoint. Its artifact is a folder with the tokenizer (chat template included)
and either weights or, for a checkpoint on a hub, a pointer to its commit there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from kto_bench.adapters import SETTINGS as ADAPTER_SETTINGS
from kto_bench.adapters import AdapterCheckpoint
from kto_bench.component import Component, ConfigError
from kto_bench.feedback.templates import apply_template_choice, check_template_choice
from kto_bench.seeds import derive
from kto_bench.training.config import PretrainConfig

POINTER = "checkpoint.json"
PRETRAINING = "pretraining.json"
"""Of a model that was pretrained here: the tokens it was trained on, those asked for, and the most its corpus gives."""
NOT_COPIED = shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.gguf", "checkpoint-*", "runs", ".*")
"""Of a local checkpoint folder: pickled weights, which are never loaded, and what trainers leave beside them."""
Progress = Callable[[int, int], None]
DIGESTS: dict[tuple[Path, tuple[tuple[Path, int, int], ...]], str] = {}
"""Of checkpoint folders that this process has read, by their files' sizes and times; workers are handed them."""


class ModelSource(Component):
    """Where the base checkpoint comes from."""

    name: str
    stage: ClassVar[str] = "checkpoint"
    """The name of the stage that ``build`` is."""
    seeded: ClassVar[bool] = False
    """Whether the base checkpoint depends on the run's seed."""

    @property
    def trainable(self) -> bool:
        """Whether the weights can be trained as they are."""
        return True

    @property
    def adaptable(self) -> bool:
        """Whether low-rank adapters can be trained on the weights, which stay as they are."""
        return True

    def build(self, folder: Path, seed: int, progress: Progress) -> None:
        """Fill ``folder`` so that ``load_policy`` and ``load_tokenizer`` read it."""
        raise TypeError(f"{type(self).__name__} does not define build()")


class Pretrained(ModelSource):
    """A published checkpoint: a hub id or a local folder in the format of ``transformers``, safetensors only.

    It may also be an adapter in the format of ``peft``: the start is then its base with the adapter merged.
    """

    path: str
    revision: str = "main"
    chat_template: str = "own"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @field_validator("path")
    @classmethod
    def _no_empty_path(cls, path: str) -> str:
        if not path.strip():
            raise ValueError("give a hub id such as EleutherAI/pythia-1.4b, or a local folder")
        folder = Path(path).expanduser()
        if path.startswith((".", "/", "~")) and not folder.is_dir():
            raise ValueError("there is no such folder; give an existing checkpoint folder, or a hub id")
        AdapterCheckpoint.in_folder(folder)
        return path

    @field_validator("chat_template")
    @classmethod
    def _known_template(cls, choice: str) -> str:
        return check_template_choice(choice)

    @property
    def trainable(self) -> bool:
        """In half precision small updates round away."""
        return self.dtype == "float32"

    @property
    def adaptable(self) -> bool:
        """Adapters are fp32 themselves, but the activations between them overflow in float16."""
        return self.dtype in ("float32", "bfloat16")

    def identity(self) -> dict[str, Any]:
        """The hub id and revision, or of a local folder the content of its files; and the template itself.

        Of a local adapter, its content and the base: the base's content where that is local, its hub id and revision
        where not.
        """
        identity = super().identity()
        folder = Path(self.path).expanduser()
        if (adapter := AdapterCheckpoint.in_folder(folder)) is not None:
            base: dict[str, Any] = {"path": adapter.base, "revision": adapter.revision}
            if adapter.base_folder is not None:
                base = {"sha256": _digest(adapter.base_folder)}
            content = _digest(folder, without=ADAPTER_SETTINGS)  # which says where the base lies
            identity["path"] = {"sha256": content, "adapter": adapter.settings, "base": base}
            del identity["revision"]
        elif folder.is_dir():
            identity["path"] = {"sha256": _digest(folder)}
            del identity["revision"]
        if Path(self.chat_template).is_file():
            identity["chat_template"] = Path(self.chat_template).read_text(encoding="utf-8")
        return identity

    def build(self, folder: Path, seed: int, progress: Progress) -> None:
        """Save the tokenizer with its chat template, and the weights of a local folder or a pointer to the hub's.

        Local files may change or move later, so they are copied; of a hub repository the commit is kept. Of an adapter
        the merged weights are saved, in fp32.
        """
        from transformers import AutoConfig, AutoTokenizer

        _without_bars()
        local = Path(self.path).expanduser()
        options = {"trust_remote_code": False, **({} if local.is_dir() else {"revision": self.revision})}
        path = str(local) if local.is_dir() else self.path
        pointer: dict[str, str] = {"dtype": self.dtype}
        try:
            adapter = AdapterCheckpoint.find(path, self.revision)
            config = AutoConfig.from_pretrained(path, **options) if adapter is None else None
        except OSError as error:
            raise ConfigError(f"model.path: cannot load {self.path!r}: {error}") from error
        if adapter is not None:
            adapter.merged().save_pretrained(folder, safe_serialization=True)
        elif local.is_dir():
            shutil.copytree(local, folder, dirs_exist_ok=True, ignore=NOT_COPIED)
        else:
            pointer |= {"path": self.path, "revision": getattr(config, "_commit_hash", None) or self.revision}
        tokenizer = AutoTokenizer.from_pretrained(path, **options) if adapter is None else adapter.tokenizer()
        apply_template_choice(tokenizer, self.chat_template)
        tokenizer.save_pretrained(folder)
        (folder / POINTER).write_text(json.dumps(pointer), encoding="utf-8")
        _load_weights(folder)


class Corpus(Component):
    """A stream of text for training a model from scratch."""

    name: str

    def tokenizer(self) -> Any:
        """The tokenizer of the corpus, with a chat template, as a ``PreTrainedTokenizerFast``."""
        raise TypeError(f"{type(self).__name__} does not define tokenizer()")

    def most_tokens(self) -> int | None:
        """How many tokens a model may be trained on at most; None where there are any number."""
        return None

    def stream(self, tokens: int, seed: int) -> np.ndarray:
        """(tokens,) token ids generated from ``seed``."""
        raise TypeError(f"{type(self).__name__} does not define stream()")


class Scratch(ModelSource):
    """A model pretrained here from random weights, as an ordinary stage."""

    stage: ClassVar[str] = "pretrain"
    seeded: ClassVar[bool] = True

    architecture: dict[str, Any]
    corpus: Any
    pretrain: PretrainConfig

    @field_validator("corpus")
    @classmethod
    def _build_corpus(cls, node: Any) -> Corpus:
        from kto_bench.component import build

        return node if isinstance(node, Corpus) else build(node, Corpus, "model.corpus")

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        kind = architecture.get("model_type")
        if kind not in CONFIG_MAPPING_NAMES:
            raise ValueError("`model_type` must be one that transformers knows, such as llama or gpt_neox")
        return architecture

    def identity(self) -> dict[str, Any]:
        """All settings, and what the corpus says of itself."""
        return {**super().identity(), "corpus": self.corpus.identity(), "pretrain": self.pretrain.identity()}

    def build(self, folder: Path, seed: int, progress: Progress) -> None:
        """Initialise from ``seed``, train on the corpus, save. ``PRETRAINING`` says on how many tokens."""
        from kto_bench.training.pretrain import pretrain

        tokenizer = self.corpus.tokenizer()
        most = self.corpus.most_tokens()
        settings = self.pretrain.within(most)
        stream = self.corpus.stream(settings.whole_tokens, derive(seed, "corpus"))
        model = pretrain(self.architecture, tokenizer, stream, settings, derive(seed, "initialisation"), progress)
        save_policy(folder, model, tokenizer)
        tokens = {"tokens": settings.whole_tokens, "asked_tokens": self.pretrain.tokens, "most_tokens": most}
        (folder / PRETRAINING).write_text(json.dumps(tokens), encoding="utf-8")


def load_policy(folder: Path) -> Any:
    """The model of an artifact, on the CPU, in evaluation mode."""
    return _load_weights(folder).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of an artifact, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def positions_of(folder: Path) -> int | None:
    """How many positions the model of an artifact has; None where its configuration does not say."""
    from transformers import AutoConfig

    path, revision = _weights_of(folder)
    return getattr(AutoConfig.from_pretrained(path, revision=revision), "max_position_embeddings", None)


@dataclass(frozen=True)
class Size:
    """How many parameters a model has: in all, and without those of its embeddings, at its input and output."""

    total: int
    without_embeddings: int


def size_of(folder: Path) -> Size:
    """The size of the model of an artifact, counted without reading the weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    path, revision = _weights_of(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path, revision=revision))
    embeddings = {id(part.weight) for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part}
    counts = {id(weight): weight.numel() for weight in model.parameters()}  # weights that are tied count once
    return Size(sum(counts.values()), sum(n for weight, n in counts.items() if weight not in embeddings))


def parameters_of(folder: Path) -> int:
    """How many parameters the model of an artifact has without those of its embeddings."""
    return size_of(folder).without_embeddings


def pad_id_of(tokenizer: Any) -> int:
    """The id to pad with: the tokenizer's own, or its end token (padding is masked everywhere)."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def save_policy(folder: Path, model: Any, tokenizer: Any) -> None:
    """Save weights (safetensors) and tokenizer so that any ``transformers`` program can load the folder."""
    _without_bars()
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _pointer(folder: Path) -> dict[str, str]:
    file = folder / POINTER
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _weights_of(folder: Path) -> tuple[str, str | None]:
    """Path or hub id, and revision, of the weights of an artifact."""
    pointer = _pointer(folder)
    return pointer.get("path", str(folder)), pointer.get("revision")


def stored_weights(folder: Path) -> tuple[str, str | None, str]:
    """Path or hub id, revision and dtype of the weights of an artifact, for programs that load them by themselves."""
    return *_weights_of(folder), _pointer(folder).get("dtype", "float32")


def _load_weights(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    _without_bars()
    path, revision = _weights_of(folder)
    dtype = getattr(torch, _pointer(folder).get("dtype", "float32"))
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except OSError as error:
        raise ConfigError(f"model.path: cannot load {path!r}: {error}") from error


def _without_bars() -> None:
    """The suite has a progress bar of its own; those of transformers would run through it."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _digest(folder: Path, without: str | None = None) -> str:
    """SHA-256 over the names and contents of the files of a checkpoint folder, read once while they do not change.

    ``without`` names a file of the folder that is left out.
    """
    folder = folder.resolve()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / (without or ""))
    key = folder, tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    if key not in DIGESTS:
        digest = hashlib.sha256()
        for path in files:
            digest.update(str(path.relative_to(folder)).encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        DIGESTS[key] = digest.hexdigest()
    return DIGESTS[key]
