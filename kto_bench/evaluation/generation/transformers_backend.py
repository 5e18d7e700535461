"""Generation with transformers, on any device. Importing this module imports torch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from kto_bench.evaluation.generation.backends import Backend
from kto_bench.evaluation.generation.generate import Generation, evaluation_mode


class Transformers(Backend):
    """Any causal language model of transformers, where it is; it is left as it was found."""

    def __init__(self, model: Any) -> None:
        self._model, self._mode = model, ExitStack()

    def __enter__(self) -> None:
        self._mode.enter_context(evaluation_mode(self._model))

    def __exit__(self, *exception: object) -> None:
        self._mode.close()

    @property
    def positions(self) -> int | None:
        """As the model's configuration says."""
        return getattr(self._model.config, "max_position_embeddings", None)

    def complete(
        self, prompts: list[list[int]], end_ids: tuple[int, ...], generation: Generation, streams: list[int]
    ) -> list[list[int]]:
        """One call of the model's own ``generate``, prompts padded on the left."""
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        pad = end_ids[0]  # its value never matters: padding is masked, and what follows an end token is dropped
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
        attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        output = self._model.generate(
            input_ids=input_ids.to(self._model.device),
            attention_mask=attention_mask.to(self._model.device),
            generation_config=GenerationConfig(
                max_new_tokens=generation.max_new_tokens,
                do_sample=False,
                eos_token_id=list(end_ids),
                pad_token_id=pad,
            ),
            logits_processor=[_Sampler(generation, streams, width)] if generation.temperature > 0 else [],
        )
        generated: list[list[int]] = output[:, width:].tolist()
        return generated


class _Sampler:
    """Draws the next token by inverting the distribution function, and leaves it as the only possible one.

    One uniform number per row and step decides, which is what makes rows independent of each other; transformers' own
    sampling draws a whole batch from one global stream.
    """

    def __init__(self, generation: Generation, streams: list[int], prompt_width: int) -> None:
        self.generation = generation
        self.prompt_width = prompt_width
        self.uniform = torch.stack(
            [
                torch.rand(
                    generation.max_new_tokens, generator=torch.Generator().manual_seed(stream), dtype=torch.float64
                )
                for stream in streams
            ]
        )

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(batch, vocabulary) scores that are 0 for the drawn token of each row and -inf for all others."""
        uniform = self.uniform[:, input_ids.shape[1] - self.prompt_width, None].to(scores.device)
        probability, token = torch.sort(
            torch.softmax(scores.double() / self.generation.temperature, -1), descending=True, stable=True
        )
        cumulative = probability.cumsum(-1)
        kept = (cumulative - probability < self.generation.top_p).sum(-1, keepdim=True)
        mass = cumulative.gather(-1, kept - 1)
        position = torch.searchsorted(cumulative, uniform * mass, right=True).minimum(kept - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, token.gather(-1, position), 0.0)
