"""The vLLM backend against a stand-in for the engine, which takes what vLLM's documentation says and runs transformers.

vLLM itself needs a GPU; what is tested is what is asked of it, and what is made of its answers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from small_run import MakeConfig
from tiny import tiny_tokenizer

from kto_bench.component import ConfigError
from kto_bench.evaluation.generation.backends import backend_for
from kto_bench.evaluation.generation.generate import Generation, generate
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.feedback.tokens import Encoder
from kto_bench.models import load_policy
from kto_bench.run import describe


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    seed: int | None = None
    detokenize: bool = True


class LLM:
    """Greedy, one request at a time; the token that stops a completion is left out where ``DROPS_STOP``."""

    DROPS_STOP = False
    made: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[list[SamplingParams]] = []

    def __init__(self, **settings: Any) -> None:
        assert settings["skip_tokenizer_init"]
        self.made.append(settings)
        self._model = load_policy(Path(settings["model"]))

    def generate(self, prompts: list[dict[str, Any]], sampling_params: list[SamplingParams], use_tqdm: bool) -> Any:
        self.asked += sampling_params
        return [self._complete(*pair) for pair in zip(prompts, sampling_params, strict=True)]

    def _complete(self, prompt: dict[str, Any], parameters: SamplingParams) -> Any:
        assert not parameters.detokenize, "there is no tokenizer"
        ids: list[int] = []
        with torch.no_grad():
            while len(ids) < parameters.max_tokens and not set(ids) & set(parameters.stop_token_ids):
                given = torch.tensor([prompt["prompt_token_ids"] + ids])
                ids.append(int(self._model(given).logits[0, -1].argmax()))
        stop = ids[-1] if ids[-1] in parameters.stop_token_ids else None
        if stop is not None and self.DROPS_STOP:
            ids.pop()
        output = SimpleNamespace(token_ids=tuple(ids), finish_reason="stop" if stop else "length", stop_reason=stop)
        return SimpleNamespace(outputs=[output])


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    module = ModuleType("vllm")
    engine = type("LLM", (LLM,), {"made": [], "asked": []})
    module.__dict__.update(LLM=engine, SamplingParams=SamplingParams, __spec__=ModuleSpec("vllm", None))
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.delitem(sys.modules, "kto_bench.evaluation.generation.vllm_backend", raising=False)
    return engine


PROMPTS = [EvaluationPrompt(f"p{i}", ({"role": "user", "content": f"w{i} w{2 * i}"},)) for i in range(12)]


@pytest.mark.parametrize("drops_stop", [False, True])
def test_greedy_completions_are_those_of_transformers(vllm: type[LLM], checkpoint: Path, drops_stop: bool) -> None:
    vllm.DROPS_STOP = drops_stop
    encoder = Encoder(tiny_tokenizer(), 20, 20)
    settings: dict[str, Any] = {"max_new_tokens": 30, "temperature": 0}
    found = {
        name: generate(
            backend_for(Generation(**settings, backend=name), checkpoint, 20),
            encoder,
            PROMPTS,
            Generation(**settings, backend=name),
            0,
        )
        for name in ("transformers", "vllm")
    }
    assert found["vllm"] == found["transformers"]
    ended = {row["ended"] for row in found["vllm"][0]}
    assert ended == {True, False}, "otherwise it says nothing about ends"


def test_the_engine_is_asked_for_exactly_our_settings(vllm: type[LLM], checkpoint: Path) -> None:
    encoder, settings = Encoder(tiny_tokenizer(), 20, 20), Generation(max_new_tokens=3, backend="vllm", top_p=0.9)
    generate(backend_for(settings, checkpoint, 20), encoder, PROMPTS[:2], settings, 7)
    (made,) = vllm.made
    assert made["generation_config"] == "vllm", "none of the checkpoint's decoding settings"
    assert (made["dtype"], made["max_model_len"]) == ("float32", 23)
    first, second = vllm.asked
    assert (first.temperature, first.top_p, first.max_tokens) == (0.7, 0.9, 3)
    assert first.stop_token_ids == list(encoder.end_ids)
    assert first.seed is not None
    assert first.seed != second.seed, "each prompt draws from a stream of its own"


def test_it_is_another_artifact_and_refused_where_it_is_not_installed(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    chosen = "evaluation.generation.backend=vllm"
    with pytest.raises(ConfigError, match=r"evaluation\.generation\.backend: 'vllm' .* not installed"):
        make(chosen)
    request.getfixturevalue("vllm")
    plain, same, other = (
        describe(make(*more))[0].fingerprints for more in ([], ["evaluation.generation.backend=transformers"], [chosen])
    )
    assert plain == same, "the default changes no fingerprint"
    assert {name for name in plain if plain[name] != other[name]} == {"generate", "judge"}
