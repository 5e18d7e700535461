"""How figures and tables are found: a module here that defines FIGURE or TABLE is one, named after its file.

PAPER_FIGURE and PAPER_TABLE are those of a paper: they are made from Evidence (own records, published rows, or both)
instead of a Sweep, and left out of reports that have nothing for them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import pandas as pd
from matplotlib.figure import Figure

import analysis
from kto_bench.results import Sweep

if TYPE_CHECKING:
    from analysis.evidence import Evidence


class NoDataError(ValueError):
    """The sweep holds nothing to draw here. The message is the reason that the report states."""


@dataclass(frozen=True)
class Drawing:
    """A figure and the caption that it must not be shown without."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Sheet:
    """A table: ``numbers`` for machines (CSV), ``display`` with the same rows as text for people (HTML and LaTeX)."""

    numbers: pd.DataFrame
    display: pd.DataFrame
    caption: str


@dataclass(frozen=True)
class Entry:
    """What a module exposes: its place in the report, a title, and the function that makes the drawing or sheet.

    ``make`` raises NoDataError where the sweep has nothing to show.
    """

    order: int
    title: str
    make: Callable[[Sweep], Any]


@dataclass(frozen=True)
class PaperEntry:
    """As Entry, of a figure or table of a paper. ``make`` raises NoDataError where neither the sweep nor the study has
    what it shows."""

    order: int
    title: str
    make: Callable[[Evidence], Any]


@overload
def discover(kind: Literal["FIGURE", "TABLE"]) -> dict[str, Entry]: ...
@overload
def discover(kind: Literal["PAPER_FIGURE", "PAPER_TABLE"]) -> dict[str, PaperEntry]: ...
def discover(kind: str) -> Any:
    """All entries of a kind by module name, in the order of the report."""
    names = [module.name for module in pkgutil.iter_modules(analysis.__path__)]
    modules = {name: importlib.import_module(f"analysis.{name}") for name in names}
    found = {name: getattr(module, kind) for name, module in modules.items() if hasattr(module, kind)}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))
