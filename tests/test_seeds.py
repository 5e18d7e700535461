"""Seeds by axis: what shares a stream, what has one of its own, and what a new cell or stream leaves as it was."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

import numpy as np
import pytest
from hydra import compose
from places import ROOT
from small_run import MakeConfig

from kto_bench import seeds
from kto_bench.config import resolve
from kto_bench.feedback.batches import schedule, units_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.run import Plan, describe
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.feedback import SandboxFeedback
from kto_bench.seeds import derive


def data_of(prompts: int) -> TokenisedFeedback:
    return TokenisedFeedback(
        kind="paired",
        prompts=[[1, 10 + i] for i in range(prompts)],
        prompt_of=np.repeat(np.arange(prompts), 2),
        completions=[[20 + i, 2] for i in range(2 * prompts)],
        desirable=None,
        ids=[str(i) for i in range(prompts)],
        truncated={},
    )


def test_streams_are_fixed_by_seed_and_names() -> None:
    """The value is part of every result that was ever published: SHA-256 of "3\\x1fdata order\\x1f0"."""
    import hashlib

    expected = int.from_bytes(hashlib.sha256(b"3\x1fdata order\x1f0").digest()[:4], "big") % 2**31
    assert derive(3, "data order", 0) == expected
    assert len({derive(s, name, i) for s in range(3) for name in ("a", "b") for i in range(3)}) == 18
    assert derive(1, "1", "a") != derive(11, "a"), "names do not run into each other"


def test_every_stream_of_the_suite_is_documented() -> None:
    """The first names in calls of ``derive`` under kto_bench ("sandbox" is followed by a second one)."""
    documented = set(re.findall(r'"([a-z ]+)"', seeds.__doc__ or ""))
    found = set()
    for path in (ROOT / "kto_bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "derive":
                names = [value.value for value in node.args[1:] if isinstance(value, ast.Constant)]
                found.add(names[-1] if names[0] == "sandbox" else names[0])
    fixed = {"heldout", "held out", "validation"}  # by the prompts alone: no seed changes them
    assert found - fixed == documented
    assert {"data order", "initialisation", "generate", "labels", "tuning"} <= found


@pytest.mark.parametrize("kind", ["paired", "binary"])
def test_losses_of_one_kind_see_the_same_data_in_the_same_order(kind: str) -> None:
    """Whatever else they ask for, and however long they train."""

    def order(steps: int, seed: int = 0, mismatched: bool = False) -> list[list[int]]:
        found = schedule(
            units_of(data_of(12), kind),  # type: ignore[arg-type]
            data_of(12).prompt_of,
            completions_per_step=4,
            epochs=1.0,
            steps=steps,
            seed=seed,
            mismatched=mismatched,
        )
        return [step.units.ravel().tolist() for step in found]

    assert order(3) == order(20)[:3]
    assert order(3) == order(3, mismatched=True)
    assert order(3) != order(3, seed=1)


def test_a_cell_is_the_same_in_any_sweep(make: MakeConfig) -> None:
    """Fingerprints of stages that losses share are equal, and follow from a cell's own configuration."""
    plans = {loss: describe(make(f"loss={loss}", "sweep=a"))[0] for loss in ("kto", "dpo", "simpo")}
    shared = {plan.fingerprints["feedback"] for plan in plans.values()}
    assert len(shared) == 1
    assert plans["kto"].fingerprints["reference"] == plans["dpo"].fingerprints["reference"]
    assert describe(make("loss=dpo", "sweep=b", "tune={trials: 3}"))[0].name == plans["dpo"].name


AXES = {
    "seeds.initialisation": {"pretrain", "tokens", "reference", "mismatched_reference", "align", "generate", "judge"},
    "seeds.data_order": {"mismatched_reference", "align", "generate", "judge"},
    "seeds.sampling": {"generate", "judge"},
}


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_reaches_exactly_its_streams(make: MakeConfig, axis: str) -> None:
    """With a number of its own it moves its stages; with the run's number, or beside another run's, nothing."""

    def plan(*overrides: str) -> Plan:
        sandbox = ["model=sandbox_tiny", "start=base", "evaluation.benchmarks=null"]
        return describe(resolve(compose("config", [*sandbox, *overrides])))[0]

    before, after = plan(), plan(f"{axis}=7")
    assert {name for name in before.stages if before.fingerprints[name] != after.fingerprints[name]} == AXES[axis]
    assert plan(f"{axis}=0").fingerprint == before.fingerprint
    assert plan(*[f"{name}=7" for name in AXES]).fingerprint == plan("seed=7").fingerprint


@pytest.mark.parametrize("kind", ["paired", "binary"])
def test_annotator_noise_has_a_stream_of_its_own(kind: str) -> None:
    """Another annotator judges the same completions of the same prompts, with the same luck."""

    def completions(source: SandboxFeedback) -> list[tuple[str, frozenset[str]]]:
        rows = source.load().rows
        texts: Callable[[object], frozenset[str]] = lambda row: frozenset(  # noqa: E731
            getattr(row, name) for name in ("chosen", "rejected", "completion") if hasattr(row, name)
        )
        return [(row.prompt[0]["content"], texts(row)) for row in rows]

    usual = SandboxFeedback(kind_of_feedback=kind, pairs=60, demonstration_rows=5)  # type: ignore[arg-type]
    noisy = usual.model_copy(update={"annotator": SimulatedAnnotator(noise=2.0, temperature=2.0)})
    assert completions(noisy) == completions(usual)
    assert noisy.load().rows != usual.load().rows
    assert noisy.demonstrations() == usual.demonstrations()
