"""Numbers as text, the same in every table and sentence."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

MISSING = "–"


def number(value: float, digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """ "0.53", or "+0.53" with ``sign``; a dash if missing. Minus is a real minus sign."""
    if value is None or math.isnan(value):
        return MISSING
    text = f"{value * scale:{'+' if sign else ''}.{digits}f}"
    # "-0.0" reads as if it said something
    return (text if float(text) else text.lstrip("-+")).replace("-", "−")


def with_interval(row: Any, name: str = "value", digits: int = 2, scale: float = 1.0, sign: bool = False) -> str:
    """ "53.1 [50.2, 56.0]" from the columns ``name``, ``<name>_low`` and ``<name>_high`` (low, high for "value")."""
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    if pd.isna(row[name]):
        return MISSING
    parts = [number(row[key], digits, scale, sign) for key in (name, low, high)]
    return f"{parts[0]} [{parts[1]}, {parts[2]}]"


def p_value(value: float) -> str:
    """ "0.032", "<0.001" or a dash."""
    if value is None or math.isnan(value):
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """ "45 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds is None or math.isnan(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
