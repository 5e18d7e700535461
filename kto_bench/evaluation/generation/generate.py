"""Completions of evaluation prompts: batched by length, sampled reproducibly, kept as they come.

What turns token ids into more token ids is a backend (``backends.py``); all that is the same whichever is chosen
(prompts' ids, turns, streams, what is resumed) is here.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from kto_bench.component import Component
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.feedback.types import Messages
from kto_bench.lines import append_lines, read_lines, write_lines
from kto_bench.seeds import derive

if TYPE_CHECKING:
    from kto_bench.evaluation.generation.backends import Backend
    from kto_bench.feedback.tokens import Encoder

Progress = Callable[[int, int], None]
BackendName = Literal["transformers", "vllm"]


class Generation(Component):
    """How completions are drawn.

    ``temperature`` 0 is greedy decoding. ``top_p`` keeps the most probable tokens up to this mass (Holtzman et al.
    2020, "The Curious Case of Neural Text Degeneration", section 3.1); 1 keeps all of them. ``backend`` is what runs
    the model: the same seed draws other completions with another one, so a table must not mix them.

    ``max_prompt_tokens`` bounds a conversation up to the completion, and is what training has where it is None. Longer
    ones keep their end; what was cut is marked in the rows.
    """

    max_new_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.7, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    batch_size: int = Field(default=64, ge=1)
    backend: BackendName = "transformers"
    max_prompt_tokens: int | None = Field(None, ge=1, description="null: train.max_prompt_tokens")

    @field_validator("backend")
    @classmethod
    def _installed(cls, backend: str) -> str:
        if backend == "vllm" and importlib.util.find_spec("vllm") is None:
            raise ValueError("vllm is not installed here; `pip install vllm`, or choose transformers")
        return backend

    def identity(self) -> dict[str, Any]:
        """All but the batch size, which matters only through rounding, like the micro-batches of training.

        What bounds prompts is left to the caller, since it may be the training's.
        """
        left_out = {"batch_size", "max_prompt_tokens", *(["backend"] if self.backend == "transformers" else [])}
        return {key: value for key, value in super().identity().items() if key not in left_out}


@dataclass(frozen=True)
class Answer:
    """The token ids of one turn of one prompt: what the model was given, and what it generated, end token included."""

    prompt_id: str
    turn: int
    prompt: list[int]
    completion: list[int]


def generate(
    backend: Backend,
    encoder: Encoder,
    prompts: Sequence[EvaluationPrompt],
    generation: Generation,
    seed: int,
    progress: Progress | None = None,
    saved: Path | None = None,
) -> tuple[list[dict[str, Any]], list[Answer]]:
    """(One row of completions.jsonl for each prompt in the order of ``prompts``, the token ids behind them).

    ``tokens`` counts the generated tokens without the end token; ``ended`` is false for a completion that hit
    ``max_new_tokens``. Where a prompt has next turns, they are asked one after another, each after the model's own
    answer to the one before; the row then has ``turns``, one entry for each, the first included, whose completion is
    also that of the row. ``cut`` is true where a prompt, or the conversation before a turn, did not fit into the
    encoder's ``max_prompt_tokens``, and absent elsewhere. ``progress(done, total)`` is called after each batch.

    Each prompt draws from a stream of its own, derived from ``seed``, its id and the turn. So the same prompts with the
    same settings on the same machine give the same rows, and neither the batch size nor the other prompts matter except
    through rounding: another batch shape may change the last bits of a logit, and with them, rarely, a token that was
    nearly a tie (more often so in half precision).

    Answers are appended to the file ``saved`` batch by batch; those that it holds already are not generated again.

    Raises EvaluationError where ids are repeated, where a prompt starts with two BOS, and where a prompt and
    ``max_new_tokens`` exceed the model's positions.
    """
    _check_ids(prompts)
    kept = _Kept(saved)
    answers: list[list[Answer]] = [[] for _ in prompts]
    total = sum(1 + len(prompt.next_turns) for prompt in prompts)
    done = 0
    cut: set[int] = set()
    with backend:
        for turn in range(1 + max((len(prompt.next_turns) for prompt in prompts), default=0)):
            asked = [index for index, prompt in enumerate(prompts) if len(prompt.next_turns) >= turn]
            encoded = encoder.prompts([_conversation(prompts[index], answers[index], encoder) for index in asked])
            tokens = {index: encoded.ids[place] for place, index in enumerate(asked)}
            cut |= {index for index, is_cut in zip(asked, encoded.is_cut, strict=True) if is_cut}
            _check_prompts(tokens.values(), encoder, generation, backend.positions)
            longest_first = sorted(asked, key=lambda index: -len(tokens[index]))
            for start in range(0, len(asked), generation.batch_size):
                batch = longest_first[start : start + generation.batch_size]
                new = [index for index in batch if not kept.has(prompts[index].id, turn, tokens[index])]
                if new:
                    streams = [_stream(seed, prompts[index].id, turn) for index in new]
                    outputs = backend.complete([tokens[index] for index in new], encoder.end_ids, generation, streams)
                    kept.add(
                        Answer(prompts[index].id, turn, tokens[index], _until_end(ids, encoder))
                        for index, ids in zip(new, outputs, strict=True)
                    )
                for index in batch:
                    answers[index].append(kept.answers[prompts[index].id, turn])
                done += len(batch)
                if progress:
                    progress(done, total)
    rows = [
        _row(prompt, of, encoder, index in cut) for index, (prompt, of) in enumerate(zip(prompts, answers, strict=True))
    ]
    return rows, [answer for of in answers for answer in of]


class _Kept:
    """The answers so far, and their file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.answers: dict[tuple[str, int], Answer] = {}
        if path is not None and path.is_file():
            found = [Answer(**row) for row in read_lines(path)]
            self.answers = {(answer.prompt_id, answer.turn): answer for answer in found}
            write_lines(path, map(asdict, found))  # without half a line at its end

    def has(self, prompt_id: str, turn: int, prompt: list[int]) -> bool:
        """Whether these very tokens have been answered."""
        answer = self.answers.get((prompt_id, turn))
        return answer is not None and answer.prompt == prompt

    def add(self, answers: Iterable[Answer]) -> None:
        new = list(answers)
        self.answers |= {(answer.prompt_id, answer.turn): answer for answer in new}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            append_lines(self._path, map(asdict, new))


def _stream(seed: int, prompt_id: str, turn: int) -> int:
    return derive(seed, "generate", prompt_id, turn) if turn else derive(seed, "generate", prompt_id)


def _conversation(prompt: EvaluationPrompt, answers: Sequence[Answer], encoder: Encoder) -> Messages:
    """The messages of the next turn: the prompt, then what was answered and asked so far."""
    messages = list(prompt.prompt)
    for answer, question in zip(answers, prompt.next_turns, strict=False):
        messages.append({"role": "assistant", "content": encoder.decode(_without_end(answer.completion, encoder))})
        messages.append({"role": "user", "content": question})
    return tuple(messages)


def _until_end(ids: Sequence[int], encoder: Encoder) -> list[int]:
    """Up to the first end token, which is kept."""
    end = next((position for position, token in enumerate(ids) if token in encoder.end_ids), len(ids))
    return list(ids[: end + 1])


def _without_end(ids: Sequence[int], encoder: Encoder) -> Sequence[int]:
    return ids[:-1] if ids and ids[-1] in encoder.end_ids else ids


def _row(prompt: EvaluationPrompt, answers: Sequence[Answer], encoder: Encoder, is_cut: bool) -> dict[str, Any]:
    turns = []
    for answer in answers:
        ids = _without_end(answer.completion, encoder)
        ended = len(ids) < len(answer.completion)
        turns.append({"completion": encoder.decode(ids), "tokens": len(ids), "ended": ended})
    row = {
        "prompt_id": prompt.id,
        "prompt": list(prompt.prompt),
        **turns[0],
        "reference": prompt.reference,
        "reference_tokens": None if prompt.reference is None else encoder.length(prompt.reference),
    }
    if prompt.next_turns:
        asked = [None, *prompt.next_turns]
        row["turns"] = [{"user": question, **turn} for question, turn in zip(asked, turns, strict=True)]
    if is_cut:
        row["cut"] = True
    return row


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


def _check_ids(prompts: Sequence[EvaluationPrompt]) -> None:
    ids = [prompt.id for prompt in prompts]
    repeated = sorted({id_ for id_ in ids if ids.count(id_) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise EvaluationError(
            f"evaluation prompts: {len(repeated)} ids occur more than once, for example {repeated[:3]}"
        )


def _check_prompts(
    tokens: Iterable[list[int]], encoder: Encoder, generation: Generation, positions: int | None
) -> None:
    bos = encoder.tokenizer.bos_token_id
    longest = 0
    for ids in tokens:
        longest = max(longest, len(ids))
        if bos is not None and ids[:2] == [bos, bos]:
            raise EvaluationError(
                f"evaluation prompts: a prompt starts with two BOS tokens ({ids[:8]}); the chat template or the "
                "tokenizer writes one too many"
            )
    needed = longest + generation.max_new_tokens
    if positions is not None and needed > positions:
        raise EvaluationError(
            f"evaluation.generation.max_new_tokens: {generation.max_new_tokens} and the longest prompt need {needed} "
            f"positions, the model has {positions}; lower max_new_tokens or max_prompt_tokens"
        )
