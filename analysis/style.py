"""One look: a loss has the same name, colour and place, and a start the same marker, in every figure and table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

LOSS_NAMES = {"none": "none (start only)", "sft": "SFT", "dpo": "DPO", "kto": "KTO", "simpo": "SimPO"}
START_NAMES = {"base": "base", "sft": "SFT"}

# Okabe & Ito's palette, then Tol's "muted" for the losses that it has no slot for: both are safe for colour-blind
# readers.
LOSS_COLOURS = {"none": "#6b6b6b", "sft": "#E69F00", "dpo": "#0072B2", "kto": "#D55E00", "simpo": "#009E73"}
OTHER_COLOURS = ["#CC79A7", "#332288", "#882255", "#999933", "#AA4499", "#117733", "#56B4E9", "#661100"]
START_MARKERS = {"base": "o", "sft": "s"}
OTHER_MARKERS = ["D", "^", "v", "<", ">"]
START_LINES: dict[str, Any] = {"base": (0, (4, 1.5)), "sft": "-"}
OTHER_LINES: list[Any] = [":", "-.", (0, (6, 1.5, 1, 1.5))]

WIDTHS = {"column": 3.35, "page": 6.75}
"""Inches: one column, and the full text width, of a two-column page."""
MAX_LABEL = 30
"""Characters of a label in a figure; tables show all of it."""
FONT_SIZES = {"column": 8.0, "page": 8.5}
GRID = "#e3e3e3"


def loss_name(method: str) -> str:
    """How a loss, or a loss with the configuration that tells it apart ("kto beta=0.1"), is shown."""
    loss, _, variant = method.partition(" ")
    return f"{LOSS_NAMES.get(loss, loss)} {variant}".strip()


def short(label: str, limit: int = MAX_LABEL) -> str:
    """A label for a figure: beginning and end of one that is longer than ``limit``, around an ellipsis."""
    if len(label) <= limit:
        return label
    end = (limit - 1) // 2
    return f"{label[: limit - 1 - end].rstrip()}…{label[-end:].lstrip()}"


def start_name(start: str) -> str:
    """How a start is shown."""
    return START_NAMES.get(start, start)


def loss_order(method: str) -> tuple[int, str]:
    """Sort key: none, sft, dpo, kto, simpo, then all others by name."""
    loss, _, variant = method.partition(" ")
    known = list(LOSS_NAMES)
    return (known.index(loss), variant) if loss in known else (len(known), method)


def start_order(start: str) -> tuple[int, str]:
    """Sort key: base, sft, then all others by name."""
    known = list(START_NAMES)
    return (known.index(start), "") if start in known else (len(known), start)


def colour(method: str) -> str:
    """The colour of a loss. One that is not listed here gets one of OTHER_COLOURS by a hash of its name, so that it
    does not depend on which other losses are in the figure (two such losses may share one; they are labelled as well).
    """
    return LOSS_COLOURS.get(method) or OTHER_COLOURS[_hash(method) % len(OTHER_COLOURS)]


def marker(start: str) -> str:
    """The marker of a start."""
    return START_MARKERS.get(start) or OTHER_MARKERS[_hash(start) % len(OTHER_MARKERS)]


def line(start: str) -> Any:
    """The line style of a start."""
    return START_LINES.get(start) or OTHER_LINES[_hash(start) % len(OTHER_LINES)]


def settings(width: Literal["column", "page"] = "page") -> AbstractContextManager[None]:
    """A context with the suite's matplotlib settings; draw and save within it."""
    size = FONT_SIZES[width]
    return mpl.rc_context(
        {
            "font.size": size,
            "axes.titlesize": size,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": size,
            "xtick.labelsize": size - 1,
            "ytick.labelsize": size - 1,
            "legend.fontsize": size - 1,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#555555",
            "axes.linewidth": 0.7,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "xtick.color": "#333333",
            "ytick.color": "#333333",
            "lines.linewidth": 1.3,
            "pdf.fonttype": 42,  # keep text as text, so that it can be searched and edited
            "svg.hashsalt": "kto_bench",
        }
    )


def figure(height: float, width: Literal["column", "page"] = "page") -> Figure:
    """An empty figure of a standard width and a height in inches, whose layout makes room for all labels."""
    return Figure(figsize=(WIDTHS[width], height), layout="constrained")


def start_handles(starts: Iterable[str]) -> list[Line2D]:
    """Legend entries for starts, by marker."""
    return [
        Line2D(
            [], [], linestyle="none", marker=marker(start), color="#333333", label=short(f"from {start_name(start)}")
        )
        for start in starts
    ]


def save(drawing: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.png`` and ``name.pdf``. No label is clipped, and no time is stored: same figure, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")  # the layout is settled: computing it again for each file takes most of the time
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    drawing.savefig(png, dpi=200, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    drawing.savefig(pdf, bbox_inches="tight", pad_inches=0.05, metadata={"CreationDate": None, "Producer": None})
    return png, pdf


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
