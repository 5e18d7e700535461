"""Calibration, the scale of a reward and partial correlations: by hand, and on planted data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from analysis import calibration


def test_the_error_by_hand(monkeypatch):
    monkeypatch.setattr(calibration, "PER_BIN", 2)
    probabilities = np.array([0.9, 0.2, 0.8, 0.4])
    outcomes = np.array([1.0, 0.0, 0.0, 0.0])
    debiased, plug_in = calibration.calibration_error(probabilities, outcomes)
    # bins {0.2, 0.4} and {0.8, 0.9}: |0.3 - 0| / 2 + |0.85 - 0.5| / 2
    assert plug_in == pytest.approx(0.325)
    # only the second has spread: s = sqrt(0.25 / 2), d = 0.35: E|N(d, s^2)| = 0.41958 by quadrature
    assert debiased == pytest.approx(0.325 - (_folded(0.35, 0.125**0.5) - 0.35) / 2, abs=1e-6)


def _folded(mean, spread):
    x = np.linspace(mean - 12 * spread, mean + 12 * spread, 200_001)
    density = np.exp(-((x - mean) ** 2) / (2 * spread**2)) / (spread * np.sqrt(2 * np.pi))
    return np.trapezoid(np.abs(x) * density, x)


def planted(rng, n, temperature=1.0):
    """Margins whose sigmoid is the probability of the outcome at ``temperature`` 1."""
    margins = rng.normal(0, 1.5, n)
    return margins * temperature, (rng.random(n) < expit(margins)).astype(float)


def test_calibrated_data_have_no_error_where_the_plug_in_sees_one():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        margins, outcomes = planted(rng, 200)
        found.append(calibration.calibration_error(expit(margins), outcomes))
    debiased, plug_in = np.mean(found, axis=0)
    assert plug_in > 0.06
    assert debiased < 0.6 * plug_in, "held at 0 or above, the mean cannot be 0, but most of the excess is gone"


def test_overconfidence_is_seen_and_its_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    many, outcomes = planted(rng, 400_000, temperature=4.0)
    truth = calibration.calibration_error(expit(many), outcomes)[0]
    assert truth > 0.1
    covered = 0
    for _ in range(100):
        p, y = zip(*[planted(rng, 300, temperature=4.0) for _ in range(2)], strict=True)
        found = calibration.calibration(expit(np.array(p)), np.array(y), rng)
        covered += found.low <= truth <= found.high
    assert covered >= 90, "at most 4 standard errors of 100 trials below 95"


def test_the_scale_is_found_again():
    rng = np.random.default_rng(2)
    margins, outcomes = planted(rng, 20_000, temperature=4.0)
    assert calibration.fitted_scale(margins, outcomes) == pytest.approx(0.25, rel=0.05)
    assert calibration.fitted_scale(-margins, outcomes) == pytest.approx(-0.25, rel=0.05)
    fitted = calibration.fitted_probabilities(margins, outcomes)
    assert calibration.calibration_error(fitted, outcomes)[0] < 0.01


def test_scales_of_margins_without_a_mistake_are_bounded():
    assert calibration.fitted_scale(np.array([1.0, 1.0]), np.ones(2)) == calibration.STEEPEST
    assert calibration.fitted_scale(np.array([-2.0, -2.0]), np.ones(2)) == -calibration.STEEPEST / 2
    assert calibration.fitted_scale(np.zeros(3), np.ones(3)) == 0.0


def test_partial_correlation_is_that_of_residuals():
    rng = np.random.default_rng(3)
    z = rng.normal(size=500)
    x, y = z + rng.normal(size=500), 2 * z + rng.normal(size=500)
    weights = np.ones((1, 500))
    residuals = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    assert calibration.partial_correlation(x, y, z, weights) == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert calibration.partial_correlation(x, y, None, weights) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert calibration.partial_correlation(x, np.ones(500), z, weights) != pytest.approx(0.0, nan_ok=False)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_are_copies_of_examples(seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, 12))
    counts = rng.multinomial(12, np.full(12, 1 / 12))
    copies = [np.repeat(v, counts) for v in (x, y, z)]
    if len(set(copies[2])) < 4:
        return
    got = calibration.partial_correlation(x, y, z, counts[None, :].astype(float))
    assert got == pytest.approx(calibration.partial_correlation(*copies, np.ones((1, 12))), abs=1e-9)


def test_an_interval_covers_a_planted_partial_correlation():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(100):
        z = rng.normal(size=150)
        x, y = z + rng.normal(size=150), z + rng.normal(size=150)
        y = y + 0.5 * (x - z)  # residuals: correlation 0.5 / sqrt(1.25)
        statistic = lambda w, x=x, y=y, z=z: calibration.partial_correlation(x, y, z, w)  # noqa: E731
        found = calibration.estimate_of([statistic], 150, rng)
        covered += found.low <= 0.5 / 1.25**0.5 <= found.high
    assert covered >= 88
