"""What is measured on both sides alike: time, memory, positions, the matrix rate of the machine. Needs torch only."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MIB = 1024**2


def synchronise() -> None:
    """Wait until an accelerator has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Memory:
    """Peak memory of this process in MiB: allocated memory of the GPU where there is one, else resident memory.

    Resident memory is ``VmHWM`` of ``/proc/self/status`` (Linux), the highest ``VmRSS`` that there ever was.
    """

    def __init__(self, before_checkpoint: float) -> None:
        """Remember what is in use now, after imports and checkpoint, and what was in use before the latter."""
        gc.collect()
        self.gpu = torch.cuda.is_available()
        self.start, self._before_checkpoint = memory_in_use(), before_checkpoint
        self._peaks: dict[str, float] = {}
        self._reset()

    def phase_ends(self, name: str) -> None:
        """The phase ``name`` ends here: keep its peak and start anew."""
        synchronise()
        self._peaks[name] = torch.cuda.max_memory_allocated() / MIB if self.gpu else _status("VmHWM")
        self._reset()

    def report(self) -> dict[str, Any]:
        """In MiB: use ``before_checkpoint`` and at the ``start``, the peak of each phase and the ``peak`` of all of
        them, and how far that is above the start."""
        peak = max(self._peaks.values())
        return {
            "before_checkpoint": self._before_checkpoint,
            "start": self.start,
            "phases": self._peaks,
            "peak": peak,
            "above_start": peak - self.start,
        }

    def _reset(self) -> None:
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts again from VmRSS


def memory_in_use() -> float:
    """MiB that this process holds now: allocated on the GPU where there is one, else resident."""
    return torch.cuda.memory_allocated() / MIB if torch.cuda.is_available() else _status("VmRSS")


def _status(name: str) -> float:
    """A field of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}; peak memory on a CPU is measured on Linux only")


class Clock:
    """Time between two of the calls of ``tick``, one after every step."""

    def __init__(self, warmup_steps: int, steps: int) -> None:
        """The clock runs from the end of the last warm-up step to the end of the last step."""
        self._warmup, self._last = warmup_steps, warmup_steps + steps
        self.ticks = 0
        self.seconds = float("nan")
        self._started = 0.0

    def tick(self) -> None:
        """A step is done."""
        self.ticks += 1
        if self.ticks == self._warmup:
            synchronise()
            self._started = time.perf_counter()
        elif self.ticks == self._last:
            synchronise()
            self.seconds = time.perf_counter() - self._started


class Positions:
    """Counts the positions that decoders compute, from the shapes of the hidden states that enter their first layer.

    ``counts`` holds the number of positions and of calls for each role: ``gradient`` and ``no gradient`` of the policy
    (with its adapters, if it has any), and ``reference``.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._handles: list[Any] = []

    def watch(self, model: Any, *, reference: bool = False) -> None:
        """Count every call of the first layer of ``model`` (a causal language model, or one with adapters) from now on.

        The layer rather than the decoder, which the suite also calls to apply the output head, with nothing to compute.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model

        def count(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = positional[0] if positional else named["hidden_states"]
            if reference or _adapters_off(base):
                role = "reference"
            else:
                role = "gradient" if torch.is_grad_enabled() else "no gradient"
            self.counts[role] += hidden.shape[0] * hidden.shape[1]
            self.counts[f"{role} calls"] += 1

        self._handles.append(base.get_decoder().layers[0].register_forward_pre_hook(count, with_kwargs=True))

    def reset(self) -> None:
        """Start from zero."""
        self.counts.clear()

    def remove(self) -> None:
        """Stop counting."""
        while self._handles:
            self._handles.pop().remove()


def _adapters_off(model: Any) -> bool:
    if not hasattr(model, "peft_config"):
        return False
    # By the private name: the public one is also a method of every model of transformers.
    return any(getattr(module, "_disable_adapters", False) is True for module in model.modules())


@dataclass(frozen=True)
class Cost:
    """Size of a model and of the counted work, for the FLOPs that the work needs.

    ``body``: parameters of the decoder without its embeddings; ``head``: vocabulary times width; ``tokens`` and
    ``completion_tokens``: real tokens of the counted steps (prompts with completions; completions alone).
    """

    body: int
    head: int
    tokens: int
    completion_tokens: int
    frozen: bool

    @classmethod
    def of(cls, model: Any, tokens: int, completion_tokens: int, *, frozen: bool) -> Cost:
        """Of ``model``, a causal language model; ``frozen`` where only adapters are trained."""
        head = model.get_output_embeddings().weight
        inside = sum(parameter.numel() for parameter in model.base_model.parameters())
        body = inside - model.get_input_embeddings().weight.numel()
        return cls(body, head.numel(), tokens, completion_tokens, frozen)

    def flops(self, *, kl: bool, live_reference: bool) -> float:
        """Floating-point operations that the work needs, however it is done: 2 per parameter, token and pass.

        A training pass counts 3 (forward, gradient of the activations, gradient of the weights), 2 where the weights
        are frozen; a forward pass 1. The body is needed at every real token, the head at the completions' tokens only.
        KTO's mismatched pairs (``kl``) hold as many tokens as the examples, and a live reference does a forward pass on
        whatever the policy sees. Attention scores, norms and adapters are left out, so utilisation is a little low.
        """
        once = 2.0 * (self.body * self.tokens + self.head * self.completion_tokens)
        passes = (2 if self.frozen else 3) + kl + live_reference * (1 + kl)
        return passes * once


def matrix_rates(threads: int) -> dict[str, float]:
    """Rates of the machine in bf16 and fp32, in FLOP/s: of a 2048-cubed product on a CPU, 8192-cubed on a GPU."""
    size = 8192 if torch.cuda.is_available() else 2048
    torch.set_num_threads(threads)
    rates = {"bf16": _matrix_rate(torch.bfloat16, size), "fp32": _matrix_rate(torch.float32, size)}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"size": size, "threads": threads, **rates}


def _matrix_rate(dtype: torch.dtype, size: int, repeats: int = 12) -> float:
    """Median rate of a ``size``-cubed matrix product, after three that do not count."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 3):
        synchronise()
        started = time.perf_counter()
        torch.mm(left, right)
        synchronise()
        seconds.append(time.perf_counter() - started)
    return 2.0 * size**3 / statistics.median(seconds[3:])
