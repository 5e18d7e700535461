"""Per-token log-probabilities of completions: the one operation that the suite asks of a model in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kto_bench.component import ConfigError
from kto_bench.training import layout
from kto_bench.training.attention import PACKED, beyond_kernel, has_kernel
from kto_bench.training.device import autocast
from kto_bench.training.head import body, logits_of
from kto_bench.training.layout import Layout, Tokens
from kto_bench.training.softmax import log_probs_of
from kto_bench.training.value_head import ValueHead

_PROBE_LENGTHS = (5, 9, 3)


class Scorer(torch.nn.Module):
    """A policy that gives log pi(y_t | x, y_<t) of every completion token, in nats and fp32.

    Only hidden states at positions that predict completion tokens reach the output head, at most
    ``max_logits // vocabulary`` positions at a time; the full logits never exist, and neither do padded positions where
    the model's attention can read sequences end to end. Gradients are exact.
    """

    def __init__(
        self,
        policy: Any,
        pad_id: int,
        *,
        precision: str = "fp32",
        padding_free: bool | None = None,
        max_logits: int = 16_777_216,
        device: torch.device | None = None,
        value_head_seed: int | None = None,
    ) -> None:
        """``policy`` is any causal language model of transformers, on its device and with its weights.

        ``precision`` is ``fp32`` or ``bf16`` (autocast). ``padding_free`` asks for sequences end to end (True), for
        padding (False), or for the former wherever a short trial shows that it is right (None); the choice is
        ``packed``, and it sets the policy's attention for good. Raises ConfigError when ``padding_free=True`` cannot
        be, or when the model's logits cannot be had from its hidden states. ``device`` is where it will compute, where
        that is not where its weights are now. With ``value_head_seed`` a value head is trained beside the policy.
        """
        super().__init__()
        self._device = device or next(policy.parameters()).device
        self.policy = policy
        self.real_positions = self.computed_positions = 0
        self.counting = True
        self._pad_id, self._precision = pad_id, precision
        self.packed = False
        if getattr(policy.config, "_attn_implementation", None) == PACKED:  # an earlier Scorer's
            policy.set_attn_implementation(policy.get_correct_attn_implementation(None))
        with _probing(policy):
            vocabulary, width = self._check_head()
            reason = "it is switched off" if padding_free is False else self._try_packing()
        self._chunk = max(1, max_logits // vocabulary)
        self.value_head = None if value_head_seed is None else ValueHead(width, value_head_seed).to(self._device)
        if padding_free and reason:
            raise ConfigError(
                f"train.padding_free: true is not possible for a {_kind(policy)} model here ({reason}); leave it at "
                "null, so that sequences are padded in groups of like length"
            )

    def forward(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> tuple[Tensor, ...]:
        """Score n lists of token ids, none empty.

        Returns ((n, t) log-probabilities, (n, t) bool mask), t the longest completion, and with a value head the (n, t)
        values of the states before each token; positions off the mask hold 0. Gradients flow through log-probabilities
        and values, through the latter to the value head alone.
        """
        plan = self._plan(prompts, completions)
        if self.counting:
            self.real_positions += plan.real
            self.computed_positions += plan.computed
        with autocast(plan.targets.device, self._precision):
            hidden = self._hidden(plan)
            log_probs = _spread(self._log_probs(hidden, plan.targets), plan)
            if self.value_head is None:
                return log_probs, plan.mask
            return log_probs, plan.mask, _spread(self.value_head(hidden), plan)

    def reset_counts(self) -> None:
        """Start to count positions anew."""
        self.real_positions = self.computed_positions = 0

    def _plan(self, prompts: Sequence[Tokens], completions: Sequence[Tokens]) -> Layout:
        device = next(self.policy.parameters()).device
        if self.packed:
            return layout.packed(prompts, completions, device)
        return layout.padded(prompts, completions, self._pad_id, device)

    def _hidden(self, plan: Layout) -> Tensor:
        """(m, d) hidden states that predict ``plan.targets``."""
        decoder = body(self.policy)
        parts = []
        for call in plan.calls:
            hidden = decoder(**call.inputs, use_cache=False)[0]
            parts.append(hidden.flatten(0, 1).index_select(0, call.selected))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(m,) log-probabilities of the targets."""
        chunks = -(-len(targets) // self._chunk)
        if chunks == 1:
            return self._chunk_log_probs(hidden, targets)
        parts = []
        for states, tokens in zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True):
            if torch.is_grad_enabled():
                # Logits of one chunk at a time, in the backward pass as well.
                part = checkpoint(self._chunk_log_probs, states, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                part = self._chunk_log_probs(states, tokens)
            parts.append(part)
        return torch.cat(parts)

    def _chunk_log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return log_probs_of(logits_of(self.policy, hidden), targets)

    def _check_head(self) -> tuple[int, int]:
        """The sizes of the vocabulary and of hidden states. Raises ConfigError where the head is not the model's."""
        ids = self._probe_ids()[0]
        device = next(self.policy.parameters()).device
        try:
            # The last id is no input of the decoder, so the model gets all but that.
            plan = layout.padded([ids[:1]], [ids[1:]], self._pad_id, device)
            hidden = self._hidden(plan)
            got = logits_of(self.policy, hidden)
            expected = self.policy(input_ids=plan.calls[0].inputs["input_ids"], use_cache=False).logits[0]
            difference = _difference(got, expected)
        except Exception as error:
            raise ConfigError(_no_head(self.policy, f"{type(error).__name__}: {error}")) from error
        if not difference <= _tolerance(expected.dtype):
            raise ConfigError(_no_head(self.policy, f"its logits differ by {difference:.1e}"))
        return int(expected.shape[-1]), int(hidden.shape[-1])

    def _try_packing(self) -> str:
        """Pack from now on, if hidden states of a few short sequences stay the same; else why not."""
        weights = next(self.policy.parameters())
        dtype = torch.bfloat16 if self._precision == "bf16" else weights.dtype
        if not has_kernel(self._device, dtype):
            return f"there is no kernel for {dtype} on {self._device.type}"
        if weights.device.type != self._device.type and (limit := beyond_kernel(self.policy.config)):
            return limit  # which would otherwise come out in the trial
        if getattr(self.policy.config, "attention_chunk_size", None) is not None:
            return "its attention is cut into chunks"
        implementation = self.policy.config._attn_implementation
        try:
            # The model in its own precision, then the kernel of training.
            for precision in dict.fromkeys(("fp32", self._precision)):
                self._compare(precision, implementation)
        except Exception as error:
            self.packed = False
            self.policy.set_attn_implementation(implementation)
            return f"{type(error).__name__}: {error}"
        return ""

    def _compare(self, precision: str, implementation: str) -> None:
        """Go over to packing; raise if it changes hidden states, or lets a sequence see another."""
        ids = self._probe_ids()
        self.policy.set_attn_implementation(implementation)
        self.packed = False
        expected = self._hidden_of(ids, precision)
        self.policy.set_attn_implementation(PACKED)
        self.packed = True
        windows: set[int | None] = set()
        got = self._hidden_of(ids, precision, windows)
        tolerance = _tolerance(torch.bfloat16 if precision == "bf16" else expected.dtype)
        difference = _difference(got, expected)
        if not difference <= tolerance:
            raise ValueError(f"its hidden states would change by {difference:.1e} of their size")
        # Rounding is the same for equal shapes, so this may be stricter: weights near zero hide little of it.
        others = self._hidden_of([ids[1][: len(ids[0])], *ids[1:]], precision)
        first = len(ids[0]) - 1
        difference = _difference(others[first:], got[first:])
        if not difference <= tolerance / 10:
            raise ValueError(f"a sequence would change another's hidden states by {difference:.1e} of their size")
        # Sequences this short are inside any window: that it reaches the attention at all is seen by its arrival.
        window = getattr(self.policy.config, "sliding_window", None)
        if window is not None and window not in windows:
            raise ValueError(f"its sliding window of {window} positions is not told to the attention")

    def _hidden_of(self, ids: list[list[int]], precision: str, windows: set[int | None] | None = None) -> Tensor:
        """Hidden states of every position that predicts, sequence by sequence. ``windows`` gets a packed row's."""
        plan = self._plan([sequence[:1] for sequence in ids], [sequence[1:] for sequence in ids])
        with autocast(plan.targets.device, precision):
            hidden = self._hidden(plan)
        if windows is not None:
            windows.update(*(call.inputs["packing"].windows for call in plan.calls))
        return hidden[torch.argsort(plan.rows * plan.mask.shape[1] + plan.columns)]

    def _probe_ids(self) -> list[list[int]]:
        """Short sequences of ids that the model knows."""
        vocabulary = self.policy.get_input_embeddings().weight.shape[0]
        draw = np.random.default_rng(0)
        return [draw.integers(0, vocabulary, length).tolist() for length in _PROBE_LENGTHS]


def _spread(values: Tensor, plan: Layout) -> Tensor:
    """(n, t) of one value for every token, 0 off the mask. No view of anything: FSDP hooks into outputs."""
    empty = torch.zeros(plan.mask.shape, dtype=torch.float32, device=values.device)
    return empty.index_put((plan.rows, plan.columns), values)


@contextmanager
def _probing(policy: Any) -> Iterator[None]:
    """Inside, no gradients and no dropout; after it, every module is in its mode again."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _difference(got: Tensor, expected: Tensor) -> float:
    """Size of the difference relative to that of what is expected."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype in (torch.float32, torch.float64) else 5e-2


def _kind(policy: Any) -> str:
    return str(getattr(policy.config, "model_type", type(policy).__name__))


def _no_head(policy: Any, reason: str) -> str:
    return (
        f"training does not support models of type {_kind(policy)!r}: their logits cannot be made of their decoder's "
        f"hidden states alone ({reason}); start from a causal language model of another architecture"
    )
