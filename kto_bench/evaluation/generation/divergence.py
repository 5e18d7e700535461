"""How far a policy has moved from its reference, along the completions that it generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kto_bench.evaluation.generation.generate import evaluation_mode
from kto_bench.training.head import body, logits_of

MAX_LOGITS = 33_554_432
"""Logits of each of the two models in memory at a time: positions times vocabulary."""
TOKENS_PER_PASS = 16_384
Progress = Callable[[int, int], None]


def divergences(
    policy: Any, reference: Any, answers: Sequence[dict[str, Any]], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """One row {prompt_id, kl, tokens} for each prompt of ``answers`` (rows of tokens.jsonl), in their order.

    For a completion y of a prompt x, in nats, with the end token among the tokens of y,

        kl = sum_t KL(policy(. | x, y_<t) || reference(. | x, y_<t)),

    each term exactly, over the whole vocabulary at temperature 1. Its mean over completions drawn from the policy is
    the sequence-level KL(policy || reference), with less variance than the log-ratio of the drawn tokens and never
    negative (Amini, Vieira and Cotterell 2025, "Better Estimation of the Kullback-Leibler Divergence Between Language
    Models", arXiv 2504.10637). With another temperature, top-p or a cap it is the divergence along what was
    generated, which is what is judged. Several turns are summed.

    ``tokens`` are those that the sum runs over. Tokens that the reference does not have (control tokens of a loss) are
    left out of its prompts and of the vocabulary, and end a completion.
    """
    unknown = _unknown(policy, reference)
    shared = torch.tensor(
        [id_ for id_ in range(min(_vocabulary(policy), _vocabulary(reference))) if id_ not in unknown],
        device=policy.device,
    )
    completions = [_until(answer["completion"], unknown) for answer in answers]
    lengths = [len(answer["prompt"]) + len(c) for answer, c in zip(answers, completions, strict=True)]
    order = sorted(range(len(answers)), key=lambda index: -lengths[index])
    sums = torch.zeros(len(answers), dtype=torch.float64)
    done = 0
    with evaluation_mode(policy), evaluation_mode(reference):
        for batch in _batches(order, lengths):
            wanted = [completions[index] for index in batch]
            prompts = [answers[index]["prompt"] for index in batch]
            hidden = [
                _hidden(policy, prompts, wanted),
                _hidden(reference, [[token for token in prompt if token not in unknown] for prompt in prompts], wanted),
            ]
            size = max(1, MAX_LOGITS // len(shared))
            chunks = zip(*(part.split(size) for part in hidden), strict=True)
            terms = [
                _divergence(logits_of(policy, ours)[:, shared], logits_of(reference, its)[:, shared])
                for ours, its in chunks
            ]
            each = torch.cat(terms).cpu() if terms else torch.zeros(0, dtype=torch.float64)
            for index, part in zip(batch, each.split([len(c) for c in wanted]), strict=True):
                sums[index] = part.sum()
            done += len(batch)
            if progress:
                progress(done, len(answers))
    rows: dict[str, dict[str, Any]] = {}
    for answer, completion, value in zip(answers, completions, sums.tolist(), strict=True):
        row = rows.setdefault(answer["prompt_id"], {"prompt_id": answer["prompt_id"], "kl": 0.0, "tokens": 0})
        row["kl"] += value
        row["tokens"] += len(completion)
    return list(rows.values())


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().num_embeddings)


def _unknown(policy: Any, reference: Any) -> set[int]:
    """The tokens that only the policy has: rows beyond the reference's embeddings, and control tokens in rows that a
    padded vocabulary (Pythia's, say) had left unused, of which the reference has learnt nothing."""
    ours, its = (getattr(model.config, "control_token_ids", None) or [] for model in (policy, reference))
    return {*range(_vocabulary(reference), _vocabulary(policy)), *(set(ours) - set(its))}


def _until(completion: list[int], unknown: set[int]) -> list[int]:
    end = next((position for position, token in enumerate(completion) if token in unknown), len(completion))
    return completion[:end]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Parts of ``order``, longest first, of at most TOKENS_PER_PASS padded positions each, or a single sequence."""
    start = 0
    while start < len(order):
        size = max(1, TOKENS_PER_PASS // max(1, lengths[order[start]]))
        yield list(order[start : start + size])
        start += size


def _hidden(model: Any, prompts: list[list[int]], completions: list[list[int]]) -> Tensor:
    """(m, d) hidden states before each token of ``completions``, one completion after another."""
    sequences = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, sequences))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in sequences], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in sequences], device=model.device)
    states = body(model)(input_ids=ids, attention_mask=mask, use_cache=False)[0]
    parts = [
        states[row, len(prompt) - 1 : len(prompt) - 1 + len(completion)]
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    return torch.cat(parts)


def _divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """(n,) KL in fp64 of (n, vocabulary) logits."""
    ours, its = (torch.log_softmax(logits.double(), -1) for logits in (policy, reference))
    return torch.nn.functional.kl_div(its, ours, reduction="none", log_target=True).sum(-1).clamp(min=0.0)
