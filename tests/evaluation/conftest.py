from __future__ import annotations

import pytest
from tiny_checkpoints import build_model, build_tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kto_bench.feedback.tokens import Encoder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer, 40, 24)


@pytest.fixture(scope="session", params=["llama", "gpt_neox"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build_model(request.param)
