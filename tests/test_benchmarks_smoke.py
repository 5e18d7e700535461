"""The benchmark scripts run end to end at a tiny size; their real numbers are in benchmarks/README.md."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
needs_peer = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes keep compiled modules if Python is told to keep none, which would double the time."""
    return tmp_path_factory.mktemp("compiled")


def measured(script: str, output: Path, compiled: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    surroundings = dict(os.environ)
    if surroundings.pop("PYTHONDONTWRITEBYTECODE", ""):
        surroundings["PYTHONPYCACHEPREFIX"] = str(compiled)
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--threads", "1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text(encoding="utf-8")), done.stdout


@needs_peer
def test_throughput_beside_the_peer(tmp_path: Path, compiled: Path) -> None:
    numbers, printed = measured(
        "throughput.py", tmp_path / "numbers.json", compiled, "--peer", "trl", "--loss", "kto", "--reference", "both",
        "--device", "cpu", "--precision", "fp32", "--shape", "tiny",
        "--completions-per-step", "16", "--steps", "3", "--warmup-steps", "1", "--repeats", "1",
    )  # fmt: skip
    cached, live = numbers["comparisons"]
    for one in (cached, live):
        ours, peer = one["ours"], one["peer"]
        assert all(one["checks"].values()), one["checks"]
        assert one["checks"].keys() >= {"ids_equal", "first_step_agrees"}
        # The same work: at the start policy and reference agree, so KTO's loss is 1/2 whatever the mismatched pairs
        # are, and the log-probabilities and the gradient are those of the same tokens.
        assert ours["first_step"]["loss"] == pytest.approx(0.5, abs=1e-6)
        assert peer["first_step"]["loss"] == pytest.approx(0.5, abs=1e-6)
        for name in ("grad_norm", "log_probs/desirable", "log_probs/undesirable"):
            assert ours["first_step"][name] == pytest.approx(peer["first_step"][name], rel=1e-4), name
        # A completion has one more token than it has inputs, so a layout without padding computes a little less than 1.
        for role in ("gradient", "no gradient"):
            assert ours["positions_per_token_by_role"][role] >= 0.97
            assert peer["positions_per_token_by_role"][role] >= 1
        assert one["ratios"]["speed"] == pytest.approx(peer["seconds"][0] / ours["seconds"][0])
        assert ours["sequences_per_second"][0] == pytest.approx(3 * 16 / ours["seconds"][0])
        assert one["ratios"]["peak_memory"] > 0
    assert live["ours"]["positions_per_token_by_role"]["reference"] >= 0.97
    assert live["peer"]["positions_per_token_by_role"]["reference"] >= 1
    assert live["ours"]["reference_seconds"][0] > 0 == live["peer"]["reference_seconds"][0]
    assert live["ours"]["seconds"][0] > live["ours"]["reference_seconds"][0]
    assert "sequences per second" in printed
    assert "asked" in printed


def test_large_vocabulary_against_its_floor(tmp_path: Path, compiled: Path) -> None:
    numbers, printed = measured(
        "large_vocabulary.py", tmp_path / "numbers.json", compiled, "--vocabulary", "2000", "--shape", "tiny",
        "--steps", "2", "--loss", "sft", "--precision", "fp32", "--repeats", "1", "--device", "cpu",
    )  # fmt: skip
    (one,) = numbers["measurements"]
    floor = one["floor"]
    parts = [size for name, size in floor.items() if name != "total"]
    assert floor["total"] == pytest.approx(sum(parts))
    # Embeddings and head of 2000 x 32, and two layers of 4 x 32 x 32 + 3 x 32 x 64 with two norms, and a last norm.
    parameters = 2 * 2000 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert floor["parameters"] == pytest.approx(4 * parameters / 2**20)
    assert floor["optimiser_state"] == 2 * floor["gradients"] == 2 * floor["parameters"]
    assert floor["activations_of_the_body"] > 0
    (side,) = one["sides"]
    assert side["ratio"] == pytest.approx(side["peaks"][0] / floor["total"])
    assert side["ratio"] > 1, "nothing trains below the floor"
    assert "peak / floor" in printed


def test_where_the_time_goes(compiled: Path) -> None:
    surroundings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(compiled)}
    command = [sys.executable, str(BENCHMARKS / "profile_step.py"), "--loss", "sft", "--shape", "tiny", "--steps", "2"]
    done = subprocess.run([*command, "--threads", "1"], capture_output=True, text=True, check=False, env=surroundings)
    assert done.returncode == 0, done.stderr[-3000:]
    shares = [float(line.split()[-1].rstrip("%")) for line in done.stdout.splitlines() if line.rstrip().endswith("%")]
    assert len(shares) >= 5
    assert sum(shares) == pytest.approx(100, abs=1)
