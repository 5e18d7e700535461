"""What papers or common belief predict of a contrast, and whether it came so."""

from __future__ import annotations

from typing import Literal

Expected = Literal["higher", "lower", "equal"]
"""The sign of a contrast (of a difference of differences: whether it grows), or none."""
Verdict = Literal["as predicted", "against the prediction", "not shown", "not contradicted"]


def verdict(expected: Expected, value: float, stands: bool) -> Verdict:
    """Of a contrast of this ``value`` that differs from 0 (``stands``) or is not shown to.

    That two are equal cannot be shown, only contradicted.
    """
    if expected == "equal":
        return "against the prediction" if stands else "not contradicted"
    if not stands:
        return "not shown"
    return "as predicted" if (value > 0) == (expected == "higher") else "against the prediction"
