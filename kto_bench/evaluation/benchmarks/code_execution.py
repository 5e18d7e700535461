"""Tests of generated programs, each in a separate process with time, memory and no network.

It stands in for ``code_eval`` of the package ``evaluate``, which lm-eval's HumanEval and MBPP fetch from the hub and
which runs the programs in forks of the process that evaluates. Linux only, as its limits are.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

SECONDS = 3.0
"""Of wall time for one program, as in ``code_eval``."""
MEGABYTES = 1024
STARTUP_SECONDS = 10.0
"""For the interpreter to start on a busy machine; the process itself counts a program's own time."""
_RUNNER = Path(__file__).with_name("untrusted.py")


@dataclass(frozen=True)
class Outcome:
    """Whether a program came to its end without an error, and what kept it from the network."""

    passed: bool
    network: str


def run_program(program: str, seconds: float = SECONDS, megabytes: int = MEGABYTES) -> Outcome:
    """Run a Python program to its end, or until it has used up its time or memory.

    It gets an empty folder, no environment, no standard input or output, and no network: a namespace without interfaces
    where the system allows one ("namespace"), and an audit hook that refuses sockets, processes and writing elsewhere
    in any case ("audit hook"). ``seconds`` are of processor time; a program that waits is stopped after twice as many.
    """
    secret = secrets.token_bytes(16).hex().encode()
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(_RUNNER), str(seconds), str(megabytes << 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            # surrogates: a broken answer is a program that does not compile
            said, _ = process.communicate(secret + b"\n" + program.encode(errors="replace"), _wall(seconds))
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    network, _, rest = said.partition(b"\n")
    return Outcome(passed=rest == secret, network=network.decode() or "unknown")


def _wall(seconds: float) -> float:
    """After which a process is killed that has not stopped by itself."""
    return 2 * seconds + STARTUP_SECONDS


def pass_at_k(total: int, correct: int, k: int) -> float:
    """Estimate of the chance that one of k samples passes: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, eq. 1)."""
    return 1.0 - math.comb(total - correct, k) / math.comb(total, k)


@dataclass
class CodeEval:
    """What ``evaluate.load("code_eval")`` gives, as far as lm-eval uses it."""

    seconds: float = SECONDS
    megabytes: int = MEGABYTES
    networks: set[str] = field(default_factory=set)
    """How programs were kept from the network."""

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """(pass@k over all tasks, outcomes by task): each candidate of ``predictions`` with its test behind it."""
        outcomes: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        for task, (candidates, test) in enumerate(zip(predictions, references, strict=True)):
            outcomes[task] = []
            for number, candidate in enumerate(candidates):
                outcome = run_program(f"{candidate}\n{test}", self.seconds, self.megabytes)
                self.networks.add(outcome.network)
                outcomes[task].append((number, {"passed": outcome.passed}))
        counts = [(len(found), sum(one["passed"] for _, one in found)) for found in outcomes.values()]
        wanted = [size for size in k if all(total >= size for total, _ in counts)]
        scores = {f"pass@{size}": sum(pass_at_k(*count, size) for count in counts) / len(counts) for size in wanted}
        return scores, outcomes


CODE_EVAL = CodeEval()
"""The one of this process: lm-eval's task files keep what they loaded."""


@contextlib.contextmanager
def in_place_of_code_eval() -> Iterator[None]:
    """Inside, ``evaluate.load("code_eval")`` gives ``CODE_EVAL``; lm-eval's task files ask for it when imported."""
    import evaluate

    load = evaluate.load

    def asked(name: str, *arguments: Any, **options: Any) -> Any:
        return CODE_EVAL if name == "code_eval" else load(name, *arguments, **options)

    with mock.patch.object(evaluate, "load", asked):
        yield
