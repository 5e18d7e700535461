"""The reference's log-probabilities: computed once per reference and data, kept as an artifact, fp32, per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kto_bench.feedback.token_lists import Tokens, lengths_of
from kto_bench.models import load_policy, load_tokenizer, pad_id_of
from kto_bench.training.config import TrainConfig
from kto_bench.training.logprobs import Scorer
from kto_bench.training.microbatches import cut
from kto_bench.training.processes import Processes

BATCH_TOKENS = 8_192
"""Most tokens in one forward pass: measured fastest on a CPU, and enough to keep a GPU busy."""


class ReferenceLogProbs:
    """n rows of per-token log-probabilities, stored end to end in one array."""

    def __init__(self, values: np.ndarray, lengths: np.ndarray, names: np.ndarray | None = None) -> None:
        """``values``: (sum of lengths,) float32; ``lengths``: (n,) tokens of each row; ``names``: (n,) the ascending
        numbers by which rows are asked for, where they are not 0 to n - 1."""
        self._values = values
        self._ends = np.cumsum(lengths)
        self._lengths = lengths
        self._names = np.arange(len(lengths)) if names is None else names

    def rows(self, indices: Sequence[int] | np.ndarray, width: int) -> Tensor:
        """(len(indices), width) float32, padded with 0 on the right."""
        out = torch.zeros((len(indices), width))
        for row, index in enumerate(np.searchsorted(self._names, indices)):
            end, length = self._ends[index], self._lengths[index]
            out[row, :length] = torch.from_numpy(np.array(self._values[end - length : end]))
        return out

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values, lengths and names, of which the same rows can be made again."""
        return self._values, self._lengths, self._names

    @classmethod
    def load(cls, folder: Path) -> ReferenceLogProbs:
        """Read what ``save_reference`` wrote, memory-mapped."""
        return cls(np.load(folder / "log_probs.npy", mmap_mode="r"), np.load(folder / "lengths.npy"))


def score_reference(
    folder: Path,
    policy: Path,
    train: TrainConfig,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    progress: Callable[[int, int], None],
) -> None:
    """``save_reference`` by the checkpoint ``policy``, in all processes that there are."""
    processes, model = Processes(), load_policy(policy)
    if train.sharding == "none":
        model.to(processes.device)
    scorer = Scorer(
        model,
        pad_id_of(load_tokenizer(policy)),
        precision=train.precision,
        padding_free=train.padding_free,
        max_logits=train.max_logits,
        device=processes.device,
    )
    module, most = processes.wrap(scorer, train.sharding), train.max_tokens_per_microbatch
    save_reference(folder, module, prompts, completions, progress, processes, max_tokens=most)


@torch.no_grad()
def save_reference(
    folder: Path,
    scorer: torch.nn.Module,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    progress: Callable[[int, int], None],
    processes: Processes | None = None,
    max_tokens: int = BATCH_TOKENS,
) -> None:
    """Write the log-probabilities of n (prompt, completion) rows to ``folder``, with ``progress(done, n)``.

    ``scorer`` is the reference's Scorer, wrapped where several ``processes`` share the rows; the first one writes.
    A forward pass has at most ``max_tokens``, and BATCH_TOKENS.
    """
    processes = processes or Processes()
    tokens = lengths_of(prompts) + lengths_of(completions)
    mine: dict[int, np.ndarray] = {}
    done = 0
    for dealt in cut(tokens, max_tokens=min(max_tokens, BATCH_TOKENS), max_items=None, processes=processes.count):
        # Sharded weights are gathered in every pass, so a process without rows joins in with one that does not count.
        rows = dealt[processes.rank] if len(dealt[processes.rank]) else np.array([0])
        log_probs, mask, *_ = scorer([prompts[i] for i in rows], [completions[i] for i in rows])
        for row, index in enumerate(dealt[processes.rank]):
            mine[int(index)] = log_probs[row][mask[row]].cpu().numpy()
        done += sum(map(len, dealt))
        progress(done, len(completions))
    parts = processes.gather(mine)
    if processes.first:
        rows_of = {index: row for part in parts for index, row in part.items()}
        values = np.concatenate([np.empty(0), *(rows_of[index] for index in range(len(completions)))])
        np.save(folder / "log_probs.npy", values.astype(np.float32))
        np.save(folder / "lengths.npy", lengths_of(completions))
