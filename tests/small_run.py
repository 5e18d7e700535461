"""What the configuration of a small run is called, and its judge."""

from __future__ import annotations

from collections.abc import Callable

from kto_bench.config import Config

MakeConfig = Callable[..., Config]


def shorter(instruction: str, output_1: str, output_2: str) -> float:
    """A judge that prefers the shorter completion."""
    return 1.5 if len(output_1) == len(output_2) else 1.0 if len(output_1) < len(output_2) else 2.0
