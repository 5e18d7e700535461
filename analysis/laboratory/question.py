"""A question of the laboratory: what was predicted, what was run, and an answer that is computed from the records."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import analysis.laboratory
from analysis.laboratory.arms import Arms
from analysis.laboratory.family import Family
from analysis.registry import Drawing


@dataclass(frozen=True)
class Question:
    """One module of this package.

    ``predicted`` says what papers or common belief expect, with the source; ``factors`` tell the arms apart (see
    ``Arms``); ``answer`` makes the families of contrasts and draws the figure.
    """

    order: int
    title: str
    sweep: str
    predicted: str
    factors: dict[str, str]
    answer: Callable[[Arms], tuple[list[Family], Drawing]]


def questions() -> list[Question]:
    """All questions, in the order of the page: every module here that defines QUESTION."""
    names = [module.name for module in pkgutil.iter_modules(analysis.laboratory.__path__)]
    modules = [importlib.import_module(f"analysis.laboratory.{name}") for name in names if not name.startswith("_")]
    return sorted((module.QUESTION for module in modules if hasattr(module, "QUESTION")), key=lambda one: one.order)
