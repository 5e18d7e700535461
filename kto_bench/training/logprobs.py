"""Per-token log-probabilities of completions: the one operation that the suite asks of a model in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tokens = Sequence[int]


def completion_log_probs(
    model: Any, prompts: Sequence[Tokens], completions: Sequence[Tokens], pad_id: int
) -> tuple[Tensor, Tensor]:
    """log pi(y_t | x, y_<t) of every completion token, in nats and fp32.

    ``prompts`` and ``completions`` are n lists of token ids, none empty. Returns ((n, t) log-probabilities, (n, t) bool
    mask), t the longest completion; positions off the mask hold 0. Gradients flow through the log-probabilities.
    """
    device = next(model.parameters()).device
    length = max(len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True))
    width = max(len(completion) for completion in completions)
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    attention = torch.zeros((len(prompts), length), dtype=torch.long)
    targets = torch.zeros((len(prompts), width), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    starts = torch.zeros((len(prompts), 1), dtype=torch.long)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        sequence = [*prompt, *completion]
        ids[row, : len(sequence)] = torch.tensor(sequence)
        attention[row, : len(sequence)] = 1
        targets[row, : len(completion)] = torch.tensor(completion)
        mask[row, : len(completion)] = True
        starts[row] = len(prompt) - 1
    # Logits only from the first position that predicts a completion token of any row: prompts cost no vocabulary.
    first = int(starts.min())
    logits = model(
        input_ids=ids.to(device), attention_mask=attention.to(device), logits_to_keep=length - first, use_cache=False
    ).logits
    positions = (starts - first + torch.arange(width)).clamp(max=length - first - 1).to(device)
    selected = logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, logits.shape[-1])).float()
    mask = mask.to(device)
    chosen = selected.gather(-1, targets.to(device).unsqueeze(-1)).squeeze(-1)
    return torch.where(mask, chosen - selected.logsumexp(-1), 0.0), mask
