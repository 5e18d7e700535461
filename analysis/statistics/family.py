"""Holm's correction for a family of tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.crossed import Matrix


def holm(p_values: NDArray[np.float64] | list[float]) -> Matrix:
    """Holm's step-down adjusted p-values (1979, Scand. J. Statist. 6:65), in the order given.

    Rejecting where the adjusted value is below alpha keeps the chance of *any* false rejection in the family below
    alpha.
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
