"""Means over prompts with the intervals that every question set shares."""

from __future__ import annotations

import numpy as np
import pytest

from kto_bench.component import ConfigError
from kto_bench.evaluation.generation.prompts import EvaluationPrompt
from kto_bench.evaluation.question_sets.question_set import estimate, mean_over_prompts, unique


def test_an_estimate_has_the_spread_of_its_replicates():
    found = estimate(0.5, np.linspace(0, 1, 1001))
    assert found == pytest.approx({"value": 0.5, "standard_error": 0.2891, "low": 0.025, "high": 0.975}, abs=1e-4)


def test_the_error_of_a_mean_is_that_of_its_prompts():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean_over_prompts(values, np.random.default_rng(1))
    error = values.std(ddof=1) / 20
    assert found["value"] == pytest.approx(values.mean())
    assert found["standard_error"] == pytest.approx(error, rel=0.06)
    half = (found["high"] - found["low"]) / 2
    assert half == pytest.approx(1.96 * error, rel=0.06)
    assert found == mean_over_prompts(values, np.random.default_rng(1))


def test_weights_are_drawn_with_their_prompts():
    """The error of a ratio of means, by the delta method."""
    rng = np.random.default_rng(2)
    values, weights = rng.random(400), rng.choice([2.0, 6.0], 400)
    found = mean_over_prompts(values, np.random.default_rng(3), weights)
    mean = (values * weights).sum() / weights.sum()
    assert found["value"] == pytest.approx(mean)
    residuals = weights * (values - mean) / weights.mean()
    assert found["standard_error"] == pytest.approx(residuals.std(ddof=1) / 20, rel=0.06)


def test_questions_occur_once():
    prompt = EvaluationPrompt("a", ({"role": "user", "content": "q"},))
    with pytest.raises(ConfigError, match="the question 'a' occurs twice"):
        unique([prompt, prompt], ConfigError)
    with pytest.raises(ConfigError, match="it holds no questions"):
        unique([], ConfigError)
