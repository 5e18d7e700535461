"""Checkpoints that are adapters in the format of ``peft``: which base they name, and both as one model."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLES_AND_FOLDERS = ["*.bin", "*.pt", "*.pth", "*.gguf", "*/*"]
"""Of a hub repository, what an adapter does not need."""


@dataclass(frozen=True)
class AdapterCheckpoint:
    """An adapter whose files lie in ``folder``, and the base that it names."""

    name: str
    """What the user calls it: a hub id or a folder."""
    folder: Path
    base: str
    """A hub id, or a folder; a relative one is seen from the current folder, as ``peft`` does it."""
    revision: str
    """Of the base, where that is on the hub."""
    settings: dict[str, Any]
    """The adapter's own configuration, without the base."""

    @classmethod
    def find(cls, path: str, revision: str) -> AdapterCheckpoint | None:
        """The adapter at a local folder or in a hub repository; None where that holds no adapter.

        Raises ConfigError where it cannot be used.
        """
        from huggingface_hub import snapshot_download
        from transformers.utils import find_adapter_config_file

        if (folder := Path(path).expanduser()).is_dir():
            return cls.in_folder(folder)
        if find_adapter_config_file(path, revision=revision) is None:
            return None
        folder = Path(snapshot_download(path, revision=revision, ignore_patterns=PICKLES_AND_FOLDERS))
        adapter = cls.in_folder(folder, path)
        if adapter is not None and adapter.base_folder is not None:
            # Its content could not be part of the identity, which is told before anything is downloaded.
            raise adapter._refused("is a local folder here; download the adapter too, and give its folder")
        return adapter

    @classmethod
    def in_folder(cls, folder: Path, name: str | None = None) -> AdapterCheckpoint | None:
        """The adapter in ``folder``; None where that holds no adapter. Raises ConfigError where it cannot be used."""
        name = name or str(folder)
        if not (folder / SETTINGS).is_file():
            return None
        try:
            settings = dict(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        except ValueError as error:
            raise ConfigError(f"model.path: {SETTINGS} of the adapter {name!r} cannot be read: {error}") from error
        base, revision = settings.pop("base_model_name_or_path", None), settings.pop("revision", None) or "main"
        if not isinstance(base, str) or not base.strip():
            raise ConfigError(
                f"model.path: the adapter {name!r} names no base; put the hub id or folder of its base as "
                f"base_model_name_or_path into its {SETTINGS}"
            )
        adapter = cls(name, folder, base, revision, settings)
        if not (folder / WEIGHTS).is_file():
            raise ConfigError(
                f"model.path: the adapter {name!r} has no {WEIGHTS}, and pickled weights (adapter_model.bin) are never "
                "read; save it again with safe_serialization=True"
            )
        if settings.get("megatron_config"):  # of which peft imports a module that the checkpoint names
            raise ConfigError(
                f"model.path: {name!r} is an adapter to a Megatron model; choose one to a transformers model"
            )
        if base.startswith((".", "/", "~")) and adapter.base_folder is None:
            raise adapter._refused(f"is no folder (looked in {Path.cwd()}); {_ADVICE}")
        if adapter.base_folder is not None and (adapter.base_folder / SETTINGS).is_file():
            raise adapter._refused(_CHAIN)
        return adapter

    @property
    def base_folder(self) -> Path | None:
        """The folder of the base; None where it is on the hub."""
        folder = Path(self.base).expanduser()
        return folder if folder.is_dir() else None

    def merged(self) -> Any:
        """The base with the adapter added to its weights, in fp32. Raises ConfigError where they do not fit."""
        from peft import PeftModel

        from kto_bench.training.lora import merge

        base = self._load_base()
        try:
            with warnings.catch_warnings(action="ignore"):
                adapter = PeftModel.from_pretrained(base, str(self.folder), torch_device="cpu")
                # Once more, for what it says: of an adapter to another model, peft uses what fits and goes on.
                result = adapter.load_adapter(str(self.folder), adapter.active_adapter, torch_device="cpu")
        except (RuntimeError, ValueError, KeyError) as error:
            raise self._refused(f"{_MISFIT}: {error}") from error
        if not hasattr(adapter, "merge_and_unload"):
            kind = self.settings.get("peft_type")
            raise ConfigError(
                f"model.path: {self.name!r} is a {kind} adapter, which no weights can hold; choose a LoRA"
            )
        if astray := sorted([*result.missing_keys, *result.unexpected_keys]):
            raise self._refused(f"{_MISFIT}: {len(astray)} adapter weights have no counterpart, such as {astray[0]}")
        return merge(adapter)

    def _load_base(self) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import find_adapter_config_file

        path, options = self._base_source()
        try:
            if find_adapter_config_file(path, revision=options.get("revision")) is not None:
                raise self._refused(_CHAIN)
            if getattr(AutoConfig.from_pretrained(path, **options), "quantization_config", None) is not None:
                raise self._refused(_QUANTISED)
            return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, use_safetensors=True, **options)
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            raise self._refused(f"cannot be loaded; {_ADVICE}: {error}") from error

    def tokenizer(self) -> Any:
        """The adapter's own tokenizer, or that of its base."""
        from transformers import AutoTokenizer

        if (self.folder / "tokenizer_config.json").is_file():
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        path, options = self._base_source()
        return AutoTokenizer.from_pretrained(path, **options)

    def _base_source(self) -> tuple[str, dict[str, Any]]:
        options: dict[str, Any] = {"trust_remote_code": False}
        if self.base_folder is not None:
            return str(self.base_folder), options
        return self.base, {**options, "revision": self.revision}

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(f"model.path: the adapter {self.name!r} names the base {self.base!r}, which {why}")


_ADVICE = f"make it available, or set base_model_name_or_path in the adapter's {SETTINGS} to where it is"
_CHAIN = "is itself an adapter; merge that one into its own base first"
_MISFIT = "does not fit its weights; name the base that it was trained on"
_QUANTISED = f"is quantised, where nothing can be merged; name the original in the adapter's {SETTINGS}"
