"""A causal language model in two halves: the decoder, and the head that makes logits of its hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def body(policy: Any) -> Any:
    """The decoder of ``policy``: everything below the output head."""
    return policy.get_decoder()


def logits_of(policy: Any, hidden: Tensor) -> Tensor:
    """(n, vocabulary) logits of (n, d) hidden states, exactly as the model's own code makes them.

    The model's own ``forward`` runs, with ``hidden`` in the place of what its decoder would return: so tied weights,
    biases, soft-capping and scales of any architecture are as they are in the model, with nothing known about it here.
    """
    with _answering(body(policy), hidden.unsqueeze(0)):
        output = policy(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device), use_cache=False)
    # squeeze rather than [0], whose gradient would be a second copy of the logits.
    return output.logits.squeeze(0)


class _Answer(tuple[Tensor]):
    """What a decoder returns, as heads read it: by name or by place. All that is not the hidden states is None."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


@contextmanager
def _answering(decoder: Any, hidden: Tensor) -> Iterator[None]:
    """Inside, calls of ``decoder`` return ``hidden``."""

    def forward(*_: Any, **__: Any) -> _Answer:
        return _Answer((hidden,))

    missing = object()
    before = vars(decoder).get("forward", missing)
    decoder.forward = forward
    try:
        yield
    finally:
        if before is missing:
            del decoder.forward
        else:
            decoder.forward = before
