"""A language model on this machine as a judge, through ``transformers``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.generate import Generation
from kto_bench.evaluation.judges.answers import Answer, Failure, Question
from kto_bench.evaluation.judges.model_judge import ModelJudge
from kto_bench.feedback.types import FeedbackError
from kto_bench.models import Pretrained
from kto_bench.seeds import derive

if TYPE_CHECKING:
    from kto_bench.feedback.tokens import Encoder

NO_LIMIT = 2**30


class LocalModelJudge(ModelJudge):
    """A checkpoint from a hub or a local folder (safetensors only), asked through its chat template.

    Where ``temperature`` is above 0, each question draws from a stream of its own, derived from ``seed``. It is loaded
    when something is to be asked, and let go of afterwards.
    """

    path: str
    revision: str = "main"
    chat_template: str = "own"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = 0
    batch_size: int = Field(16, ge=1)

    changes_no_answer: ClassVar[frozenset[str]] = ModelJudge.changes_no_answer | {"batch_size"}

    @model_validator(mode="after")
    def _draws_anew(self) -> LocalModelJudge:
        assert self.checkpoint  # which refuses what is no checkpoint
        if self.repeats > 1 and self.temperature == 0:
            raise ValueError(
                f"repeats: {self.repeats} asks the same again to see the judge's noise, and at temperature 0 a local "
                "model always answers alike; choose a temperature above 0, or repeats=1"
            )
        return self

    @cached_property
    def checkpoint(self) -> Pretrained:
        """The checkpoint as a model source."""
        fields = {"path": self.path, "revision": self.revision, "chat_template": self.chat_template}
        return Pretrained(name=self.name, dtype=self.dtype, **fields)

    def identity(self) -> dict[str, Any]:
        """What answers depend on; of a local folder its content."""
        checkpoint = {key: value for key, value in self.checkpoint.identity().items() if key != "_target_"}
        own = {key: value for key, value in super().identity().items() if key not in ("revision", *checkpoint)}
        return {**own, **checkpoint}

    def replies(self, questions: Iterable[Question]) -> Iterator[tuple[Question, Answer | Failure]]:
        """Batch by batch, in order."""
        loaded, waiting = None, iter(questions)
        while batch := list(islice(waiting, self.batch_size)):
            loaded = loaded or self._load()
            yield from self._answer(batch, *loaded)

    def _answer(self, batch: list[Question], encoder: Encoder, model: Any) -> list[tuple[Question, Answer | Failure]]:
        from kto_bench.evaluation.generation.transformers_backend import Transformers

        backend = Transformers(model)
        positions = backend.positions or NO_LIMIT
        failed: list[tuple[Question, Answer | Failure]] = []
        asked: list[tuple[Question, list[int]]] = []
        for question in batch:
            try:
                ids = encoder.prompt(tuple(dict(message) for message in question.request))
            except FeedbackError as error:  # some templates know no system turns
                failed.append((question, Failure(str(error))))
                continue
            if len(ids) + self.max_tokens > positions:
                why = f"{len(ids)} tokens and max_tokens={self.max_tokens} exceed the judge's {positions} positions"
                failed.append((question, Failure(why)))
            else:
                asked.append((question, ids))
        if not asked:
            return failed
        prompts = [ids for _, ids in asked]
        # A question that is asked again, since its answer could not be read, has the same key: another stream, then.
        streams = [derive(self.seed, "judge", question.key, question.attempt) for question, _ in asked]
        settings = Generation(max_new_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p)
        with backend:
            drawn = backend.complete(prompts, encoder.end_ids, settings, streams)
            generated = [_until_end(ids, encoder.end_ids) for ids in drawn]
            pairs = zip(prompts, generated, strict=True)
            tops = [self.top_logprobs and _likeliest(model, encoder, *pair, self.top_logprobs) for pair in pairs]
        return failed + [
            (question, Answer(encoder.decode(ids), top or None, input_tokens=len(prompt), output_tokens=len(ids)))
            for (question, prompt), ids, top in zip(asked, generated, tops, strict=True)
        ]

    def _load(self) -> tuple[Encoder, Any]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from kto_bench.feedback.templates import apply_template_choice
        from kto_bench.feedback.tokens import Encoder
        from kto_bench.training.device import pick_device

        folder = Path(self.path).expanduser()
        path, revision = (str(folder), None) if folder.is_dir() else (self.path, self.revision)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                path,
                revision=revision,
                dtype=getattr(torch, self.dtype),
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError) as error:
            raise EvaluationError(f"evaluation.judge.path: cannot load {self.path!r}: {error}") from error
        apply_template_choice(tokenizer, self.chat_template)
        return Encoder(tokenizer, NO_LIMIT, self.max_tokens), model.eval().to(pick_device())


def _until_end(ids: list[int], end_ids: tuple[int, ...]) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in end_ids), len(ids))
    return ids[:end]


def _likeliest(
    model: Any, encoder: Encoder, prompt: list[int], generated: list[int], count: int
) -> tuple[dict[str, float], ...]:
    """At each generated position, and at the first one at least: the likeliest tokens' log-probabilities, by text.

    Of tokens with one text, such as those that are part of a character, the likeliest counts.
    """
    import torch

    ids = torch.tensor([[*prompt, *generated[:-1]]], device=model.device)
    logits = model(ids).logits[0, len(prompt) - 1 :].float()
    values, tokens = torch.log_softmax(logits, -1).topk(min(count, logits.shape[-1]))
    found: list[dict[str, float]] = []
    for row_values, row_tokens in zip(values.tolist(), tokens.tolist(), strict=True):
        by_text: dict[str, float] = {}
        for value, token in zip(row_values, row_tokens, strict=True):
            by_text.setdefault(encoder.decode([token]), value)
        found.append(by_text)
    return tuple(found)
