"""What runs a model to complete prompts: transformers always, vLLM where it is installed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from kto_bench.evaluation.generation.generate import Generation


class Backend(AbstractContextManager[Any], Protocol):
    """Completes prompts inside its context; what it holds (a model, memory of a device) is let go of at its end."""

    @property
    def positions(self) -> int | None:
        """How many positions the model has; None where its configuration does not say."""

    def complete(
        self, prompts: list[list[int]], end_ids: tuple[int, ...], generation: Generation, streams: list[int]
    ) -> list[list[int]]:
        """The generated ids of one batch, in its order, up to and including an end token at least.

        What follows an end token means nothing. Of a prompt only its own seed in ``streams`` may be drawn from, so that
        no other prompt of the batch matters.
        """


def backend_for(generation: Generation, checkpoint: Path, max_prompt_tokens: int) -> Backend:
    """The chosen backend with the policy of the artifact ``checkpoint``."""
    from kto_bench.evaluation.generation.loaded import forget, loaded

    if generation.backend == "vllm":
        from kto_bench.evaluation.generation.vllm_backend import Vllm

        forget()  # the engine takes most of a device
        return Vllm(checkpoint, max_prompt_tokens + generation.max_new_tokens)
    from kto_bench.evaluation.generation.transformers_backend import Transformers

    return Transformers(loaded(checkpoint)[0])
