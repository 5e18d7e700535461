"""Budgets: what a step costs, how many steps are paid for, and that every loss gets the same amount."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import MakeConfig
from tiny import tiny_model

from kto_bench.component import ConfigError
from kto_bench.feedback.batches import Step, schedule, units_of
from kto_bench.feedback.tokenised import TokenisedFeedback
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.simpo import SimPO
from kto_bench.models import parameters_of
from kto_bench.run import describe, execute
from kto_bench.training.budget import Costs, within
from kto_bench.training.config import Budget, TrainConfig

DATA = TokenisedFeedback(
    kind="paired",
    prompts=[[1] * 3, [1] * 5],  # lengths 3 and 5
    prompt_of=np.array([0, 0, 1, 1]),
    completions=[[2] * 2, [2] * 4, [2] * 1, [2] * 6],  # sequences of 5, 7, 6 and 11 tokens
    desirable=None,
    ids=["a", "b"],
    truncated={},
)
STEP = Step(np.array([[0, 1]]), np.array([[1, 0], [0, 3]]))  # mismatched: 5 + 2 and 3 + 6 tokens
NO_PAIRS = Step(np.array([[0, 1]]), np.empty((0, 2), dtype=np.int64))


def test_the_price_of_a_step_by_hand() -> None:
    """12 tokens are trained on; N = 10. SimPO: 6 N a token. DPO: 2 N more. KTO: 2 + 2 more N for 16 mismatched ones."""
    assert Costs.of(DATA, SimPO(), 10).tokens(NO_PAIRS) == 12
    assert Costs.of(DATA, SimPO(), 10).flops(NO_PAIRS) == 6 * 10 * 12
    assert Costs.of(DATA, DPO(), 10).flops(NO_PAIRS) == 8 * 10 * 12
    assert Costs.of(DATA, KTO(), 10).flops(STEP) == 8 * 10 * 12 + 4 * 10 * 16
    assert Costs.of(DATA, None, 10).flops(STEP) == Costs.of(DATA, KTO(), 10).flops(STEP)
    used = Costs.of(DATA, DPO(), 10).used([NO_PAIRS, NO_PAIRS])
    assert used == {"completions": 4, "updates": 2, "tokens": 24, "flops": 2 * 960}


def first(count: int) -> list[Step]:
    return schedule(
        units_of(DATA, "paired"),
        DATA.prompt_of,
        completions_per_step=2,
        epochs=1.0,
        steps=count,
        seed=0,
        mismatched=False,
    )


@pytest.mark.parametrize("tokens", [17, 28, 29, 30, 57, 58, 1000])
def test_as_many_steps_as_are_paid_for_and_not_one_more(tokens: int) -> None:
    """Steps cost 12 and 17 tokens in some order, again and again; the first of them are those of a longer schedule."""
    costs = Costs.of(DATA, DPO(), 10)
    steps = within(Budget(tokens=tokens), costs, first)
    assert sum(map(costs.tokens, steps)) <= tokens
    assert sum(map(costs.tokens, first(len(steps) + 1))) > tokens
    assert all((one.units == other.units).all() for one, other in zip(steps, first(200), strict=False))


def test_a_budget_that_pays_for_no_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"budget\.tokens: 11 does not pay for one step, which costs 1[27]; raise it"):
        within(Budget(tokens=11), Costs.of(DATA, DPO(), 10), first)
    with pytest.raises(
        ValueError, match=r"budget\.completions \(3\) does not pay for one step of completions_per_step"
    ):
        TrainConfig(completions_per_step=4, budget=Budget(completions=3))


def test_completions_and_updates_are_steps_and_are_named_alike() -> None:
    """So that a budget and the steps that it comes to are the same work."""
    steps = TrainConfig(completions_per_step=8, steps=5)
    assert TrainConfig(completions_per_step=8, budget=Budget(updates=5)).identity() == steps.identity()
    assert TrainConfig(completions_per_step=8, budget=Budget(completions=47)).identity() == steps.identity()
    tokens = TrainConfig(completions_per_step=8, budget=Budget(tokens=47))
    assert tokens.identity() == {key: value for key, value in steps.identity().items() if key != "steps"} | {
        "budget": {"tokens": 47}
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing given; give exactly one of completions, updates, tokens, flops"),
        ({"tokens": 1, "updates": 1}, "updates and tokens given"),
        ({"tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_a_budget_is_exactly_one_amount(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Budget(**given)


def test_a_budget_beside_steps_is_refused(make: MakeConfig) -> None:
    message = r"steps \(3\) and budget\.tokens \(100\) both say how long to train; set steps to null"
    with pytest.raises(ConfigError, match=message):
        make("budget={tokens: 100}")
    assert make("budget={tokens: 100}", "train.steps=null").train.budget == Budget(tokens=100)


def test_parameters_are_counted_without_embeddings_and_without_weights(checkpoint: Path) -> None:
    """By hand for 2 layers of width 32: q and o 32 x 32, k and v 16 x 32, the MLP 3 x 32 x 48, norms 2 x 32, and 32."""
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32
    assert parameters_of(checkpoint) == 2 * layer + 32
    model = tiny_model()
    embeddings = model.get_input_embeddings().weight.numel() + model.get_output_embeddings().weight.numel()
    assert parameters_of(checkpoint) == sum(weight.numel() for weight in model.parameters()) - embeddings
    (checkpoint / "model.safetensors").unlink()
    assert parameters_of(checkpoint) == 2 * layer + 32


def used(make: MakeConfig, *overrides: str, state: str = "done") -> dict[str, int]:
    config = make("train.steps=null", "loss=dpo", "evaluation.prompts=null", "evaluation.judge=null", *overrides)
    assert execute(config) == state
    found: dict[str, int] = json.loads((describe(config)[1].folder / "data.json").read_text())["used"]
    return found


def test_a_run_keeps_within_its_budget_and_records_what_it_used(make: MakeConfig) -> None:
    """The same FLOPs are fewer steps for a loss with a reference, and fewer still with a reference point."""
    by_loss = {loss: used(make, "budget={flops: 3e7}", f"loss={loss}") for loss in ("simpo", "dpo", "kto")}
    assert all(spent["flops"] <= 3e7 for spent in by_loss.values())
    assert all(spent["flops"] * (1 + 1 / spent["updates"]) > 3e7 * 0.8 for spent in by_loss.values())
    updates = [by_loss[loss]["updates"] for loss in ("simpo", "dpo", "kto")]
    assert updates[0] > updates[1] > updates[2] > 1
    assert 500 < used(make, "budget={tokens: 600}", "loss=kto")["tokens"] <= 600
    assert used(make, "budget={completions: 20}") == used(make, "train.steps=2", state="cached")
