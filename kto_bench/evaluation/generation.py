"""Completions of evaluation prompts: batched, sampled reproducibly, independent of how prompts are batched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from kto_bench.component import Component
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.prompts import EvaluationPrompt
from kto_bench.seeds import derive

if TYPE_CHECKING:
    import torch

    from kto_bench.feedback.tokens import Encoder

Progress = Callable[[int, int], None]


class Generation(Component):
    """How completions are drawn.

    ``temperature`` 0 is greedy decoding. ``top_p`` keeps the most probable tokens up to this mass (Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration", section 3.1); 1 keeps all of them.
    """

    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    batch_size: int = Field(default=64, ge=1)

    def identity(self) -> dict[str, Any]:
        """All but the batch size, which matters only through rounding, like the micro-batches of training."""
        return {key: value for key, value in super().identity().items() if key != "batch_size"}


def generate(
    model: Any,
    encoder: Encoder,
    prompts: list[EvaluationPrompt],
    generation: Generation,
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row of completions.jsonl for each prompt, in the order of ``prompts``.

    ``model`` is any transformers causal language model, on any device. ``tokens`` counts the generated tokens without
    the end token; ``ended`` is false for a completion that hit ``max_new_tokens``. ``progress(done, total)`` is called
    after each batch.

    Each prompt draws from a stream of its own, derived from ``seed`` and its id and generated on the CPU. So the same
    prompts with the same settings on the same machine give the same rows, and neither the batch size nor the other
    prompts matter except through rounding: another batch shape may change the last bits of a logit, and with them,
    rarely, a token that was nearly a tie (more often so in half precision).

    Raises EvaluationError where ids are repeated or where a prompt and ``max_new_tokens`` exceed the model's positions.
    """
    _check_ids(prompts)
    tokens = [encoder.prompt(prompt.prompt) for prompt in prompts]
    _check_positions(model, tokens, generation)
    rows: list[dict[str, Any]] = [{} for _ in prompts]
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(tokens[index]))
    with evaluation_mode(model):
        for start in range(0, len(prompts), generation.batch_size):
            batch = longest_first[start : start + generation.batch_size]
            streams = [derive(seed, "generate", prompts[index].id) for index in batch]
            outputs = _complete(model, encoder, [tokens[index] for index in batch], generation, streams)
            for index, ids in zip(batch, outputs, strict=True):
                rows[index] = _row(prompts[index], ids, encoder)
            if progress:
                progress(start + len(batch), len(prompts))
    return rows


def _row(prompt: EvaluationPrompt, ids: list[int], encoder: Encoder) -> dict[str, Any]:
    length = next((position for position, token in enumerate(ids) if token in encoder.end_ids), len(ids))
    return {
        "prompt_id": prompt.id,
        "prompt": list(prompt.prompt),
        "completion": encoder.decode(ids[:length]),
        "tokens": length,
        "ended": length < len(ids),
        "reference": prompt.reference,
        "reference_tokens": None if prompt.reference is None else encoder.length(prompt.reference),
    }


def _complete(
    model: Any, encoder: Encoder, prompts: list[list[int]], generation: Generation, streams: list[int]
) -> list[list[int]]:
    """The generated ids of one batch; after a row's end token there is padding up to the longest row."""
    import torch
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    pad = encoder.end_ids[0]  # its value never matters: padding is masked, and what follows an end token is dropped
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=generation.max_new_tokens,
            do_sample=False,
            eos_token_id=list(encoder.end_ids),
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
        import torch

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
        import torch

        uniform = self.uniform[:, input_ids.shape[1] - self.prompt_width, None].to(scores.device)
        probability, token = torch.sort(
            torch.softmax(scores.double() / self.generation.temperature, -1), descending=True, stable=True
        )
        cumulative = probability.cumsum(-1)
        kept = (cumulative - probability < self.generation.top_p).sum(-1, keepdim=True)
        mass = cumulative.gather(-1, kept - 1)
        position = torch.searchsorted(cumulative, uniform * mass, right=True).minimum(kept - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, token.gather(-1, position), 0.0)


@contextlib.contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Dropout off, no gradients, and none of the decoding settings that a checkpoint may bring along.

    A checkpoint's generation_config (repetition penalty, minimum length, ...) would fill whatever ours leaves open.
    """
    import torch
    from transformers import GenerationConfig

    was_training, its_config = model.training, model.generation_config
    model.eval()
    model.generation_config = GenerationConfig()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.generation_config = its_config
        model.train(was_training)


def _check_ids(prompts: list[EvaluationPrompt]) -> None:
    ids = [prompt.id for prompt in prompts]
    repeated = sorted({id_ for id_ in ids if ids.count(id_) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise EvaluationError(
            f"evaluation prompts: {len(repeated)} ids occur more than once, for example {repeated[:3]}"
        )


def _check_positions(model: Any, tokens: list[list[int]], generation: Generation) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    needed = max(map(len, tokens), default=0) + generation.max_new_tokens
    if positions is not None and needed > positions:
        raise EvaluationError(
            f"evaluation.generation.max_new_tokens: {generation.max_new_tokens} and the longest prompt need {needed} "
            f"positions, the model has {positions}; lower max_new_tokens or max_prompt_tokens"
        )
