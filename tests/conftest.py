"""Fixtures for all tests: a checkpoint, and real public data where they lie beside the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Before torch is imported anywhere: the tests' processes share the cores, and nothing may ask a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
from places import SHARED
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The path of a public set or tokenizer; the test is skipped where it is absent."""

    def find(path: str) -> Path:
        if not (SHARED / path).exists():
            pytest.skip(f"needs {path} in a folder shared/data beside the checkout")
        return SHARED / path

    return find


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A local checkpoint folder: tiny Llama with its tokenizer."""
    folder = tmp_path / "checkpoint"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
