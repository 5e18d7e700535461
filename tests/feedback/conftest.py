"""Small tokenizers made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    """Byte-level tokenizers with one merge: "!" is 0, "H" 39, "a" 64, "\\n" 198, " " 220, "Hi" 256, then specials."""

    def make(*special: str, template: str | None = None, **names: str) -> PreTrainedTokenizerFast:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: index for index, letter in enumerate(alphabet)} | {"Hi": 256}
        backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("H", "i")]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
        return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write values (or raw bytes) as the lines of a file."""

    def write_lines(*lines: Any, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(b"".join(line + b"\n" for line in raw))
        return path

    return write_lines
