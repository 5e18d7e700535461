"""Runs that failed through their own settings, as they would again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIVERGED = "TrainingDivergedError"
"""How the reason of such a failure begins: the error that ``training.loop`` raises."""


def is_diverged(status: Mapping[str, Any]) -> bool:
    """Whether a ``status.json`` is that of such a run. Of a trial of tuning, this is a result like any other."""
    return status.get("state") == "failed" and str(status.get("reason")).startswith(DIVERGED)
