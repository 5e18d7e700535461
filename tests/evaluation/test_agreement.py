"""Position bias and noise, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kto_bench.evaluation.judges.agreement import Verdict, noise, position_bias


def verdict(prompt: str, ours: int, preference: float, repeat: int = 0) -> Verdict:
    return Verdict(prompt, ours, repeat, preference, "x")


def test_position_bias_by_hand() -> None:
    verdicts = [
        *(verdict("a", 1, 1.0), verdict("a", 2, 1.0)),  # ours in both: first preferred, then second
        *(verdict("b", 1, 1.0), verdict("b", 2, 0.0)),  # whichever is first
        *(verdict("c", 1, 0.5), verdict("c", 2, 0.5)),
    ]
    bias = position_bias(verdicts)
    assert bias["first_preferred"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert bias["consistent"] == pytest.approx(2 / 3)
    assert bias["n"] == 3
    assert bias["standard_error"] == pytest.approx(np.std([0.5, 1, 0.5], ddof=1) / math.sqrt(3))


def test_position_bias_of_one_order() -> None:
    assert position_bias([verdict("a", 2, 0.25)]) == {"first_preferred": 0.75, "n": 1, "standard_error": None}


def test_noise_is_that_of_the_mean() -> None:
    """The standard error, by the estimate over many draws of the same judging."""
    rng = np.random.default_rng(0)
    chances = [0.9, 0.5, 0.2]

    def judged() -> list[Verdict]:
        return [
            verdict(str(prompt), ours, float(rng.random() < chance), repeat)
            for prompt, chance in enumerate(chances)
            for ours in (1, 2)
            for repeat in range(3)
        ]

    draws = [judged() for _ in range(2000)]
    rates = [np.mean([one.preference for one in draw]) for draw in draws]
    estimated = np.sqrt(np.mean([noise(draw, 3)["standard_error"] ** 2 for draw in draws]))
    assert estimated == pytest.approx(np.std(rates), rel=0.05)
    exact = math.sqrt(sum(chance * (1 - chance) / 6 for chance in chances)) / 3
    assert estimated == pytest.approx(exact, rel=0.03)
    differing = np.mean([noise(draw, 3)["differing"] for draw in draws])
    assert differing == pytest.approx(np.mean([2 * chance * (1 - chance) for chance in chances]), rel=0.03)


def test_identical_texts_are_prompts_without_noise() -> None:
    verdicts = [verdict("a", 1, value, repeat) for repeat, value in enumerate([1.0, 0.0])]
    assert noise(verdicts, 4) == {"differing": 1.0, "deviation": math.sqrt(0.5), "standard_error": 0.5 / 4, "n": 1}
