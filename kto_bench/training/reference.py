"""The reference's log-probabilities: computed once per reference and data, kept as an artifact, fp32, per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kto_bench.training.logprobs import Tokens, completion_log_probs

BATCH_TOKENS = 16_384
"""Padded tokens per forward pass: large, since there is no gradient to keep."""


class ReferenceLogProbs:
    """n rows of per-token log-probabilities, stored end to end in one array."""

    def __init__(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """``values``: (sum of lengths,) float32; ``lengths``: (n,) tokens of each row."""
        self._values = values
        self._ends = np.cumsum(lengths)
        self._lengths = lengths

    def rows(self, indices: Sequence[int] | np.ndarray, width: int) -> Tensor:
        """(len(indices), width) float32, padded with 0 on the right."""
        out = torch.zeros((len(indices), width))
        for row, index in enumerate(indices):
            end, length = self._ends[index], self._lengths[index]
            out[row, :length] = torch.from_numpy(np.array(self._values[end - length : end]))
        return out

    def __len__(self) -> int:
        return len(self._lengths)

    @classmethod
    def load(cls, folder: Path) -> ReferenceLogProbs:
        """Read what ``save_reference`` wrote, memory-mapped."""
        return cls(np.load(folder / "log_probs.npy", mmap_mode="r"), np.load(folder / "lengths.npy"))


@torch.inference_mode()
def save_reference(
    folder: Path,
    model: Any,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    pad_id: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write the log-probabilities of n (prompt, completion) rows to ``folder``, with ``progress(done, n)``."""
    model.eval()
    total_lengths = np.array([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)])
    rows: list[np.ndarray | None] = [None] * len(completions)
    done = 0
    for batch in _by_length(total_lengths):
        log_probs, mask = completion_log_probs(
            model, [prompts[i] for i in batch], [completions[i] for i in batch], pad_id
        )
        for row, index in enumerate(batch):
            rows[index] = log_probs[row][mask[row]].cpu().numpy()
        done += len(batch)
        progress(done, len(rows))
    np.save(folder / "log_probs.npy", np.concatenate([row for row in rows if row is not None]).astype(np.float32))
    np.save(folder / "lengths.npy", np.array([len(completion) for completion in completions], dtype=np.int64))


def _by_length(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows sorted by length and cut so that each group, padded to its longest row, stays within BATCH_TOKENS."""
    groups: list[np.ndarray] = []
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > BATCH_TOKENS:
            groups.append(order[start:end])
            start = end
    return groups
