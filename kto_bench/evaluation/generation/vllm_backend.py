"""Generation with vLLM (https://docs.vllm.ai), for large models on GPUs. Importing this module imports vllm."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams

from kto_bench.evaluation.generation.backends import Backend
from kto_bench.evaluation.generation.generate import Generation
from kto_bench.models import positions_of, stored_weights


class Vllm(Backend):
    """The policy of an artifact in vLLM's engine, which lives as long as the context.

    Prompts go in as the token ids that training uses, and ids come out: vLLM's tokenizer, chat template and the
    checkpoint's own decoding settings are not used. Weights keep the dtype that the artifact has; vLLM would make half
    precision of float32.
    """

    def __init__(self, checkpoint: Path, max_tokens: int) -> None:
        """No prompt with its completion has more than ``max_tokens``, for which memory is set aside."""
        self._checkpoint, self._max_tokens = checkpoint, max_tokens
        self._engine: Any = None

    def __enter__(self) -> None:
        path, revision, dtype = stored_weights(self._checkpoint)
        _free_memory()  # the engine takes most of a device, and refuses one that is in use
        self._engine = LLM(
            model=path,
            revision=revision,
            dtype=dtype,
            skip_tokenizer_init=True,
            max_model_len=min(self._max_tokens, self.positions or self._max_tokens),
            generation_config="vllm",  # none of the checkpoint's own
        )

    def __exit__(self, *exception: object) -> None:
        self._engine = None
        _free_memory()

    @property
    def positions(self) -> int | None:
        """As the model's configuration says."""
        return positions_of(self._checkpoint)

    def complete(
        self, prompts: list[list[int]], end_ids: tuple[int, ...], generation: Generation, streams: list[int]
    ) -> list[list[int]]:
        """One call of the engine, which forms its own batches; every request has its own seed."""
        parameters = [
            SamplingParams(
                temperature=generation.temperature,
                top_p=generation.top_p,
                max_tokens=generation.max_new_tokens,
                stop_token_ids=list(end_ids),
                seed=stream,
                detokenize=False,
            )
            for stream in streams
        ]
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self._engine.generate(requests, parameters, use_tqdm=False)
        return [_ids(output.outputs[0], end_ids) for output in outputs]


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _ids(output: Any, end_ids: tuple[int, ...]) -> list[int]:
    """The generated ids. vLLM leaves the token that stopped it out of them in some versions; then it is put back."""
    ids = list(output.token_ids)
    if output.finish_reason == "stop" and not set(ids) & set(end_ids):
        ids.append(output.stop_reason if output.stop_reason in end_ids else end_ids[0])
    return ids
