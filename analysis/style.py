"""One look: a loss has the same name, colour and place, and a start the same marker, in every figure and table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, TypeVar

import matplotlib as mpl
from fontTools.subset import Options
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

LOSS_NAMES = {
    "none": "none (start only)",
    "sft": "SFT",
    "csft": "conditional SFT",
    "slic": "SLiC",
    "rrhf": "RRHF",
    "dpo": "DPO",
    "cdpo": "conservative DPO",
    "robust_dpo": "robust DPO",
    "rdpo": "R-DPO",
    "ipo": "IPO",
    "humanline_dpo": "humanline DPO",
    "kto": "KTO",
    "kto_no_reference_point": "KTO, no reference point",
    "kto_concave": "KTO, concave",
    "kto_risk_neutral": "KTO, risk-neutral",
    "kto_no_reference": "KTO, no reference",
    "kto_kahneman_tversky": "KTO, Kahneman-Tversky",
    "humanline_kto": "humanline KTO",
    "bco": "BCO",
    "nca": "NCA",
    "apo_zero": "APO-zero",
    "apo_down": "APO-down",
    "ppo": "offline PPO",
    "ppo kl_weight=0": "PPO-Clip",
    "cpo": "CPO",
    "orpo": "ORPO",
    "simpo": "SimPO",
}
START_NAMES = {"base": "base", "sft": "SFT"}

# Okabe & Ito's palette and colours of Tol's "muted": both are safe for colour-blind readers, and hold fewer colours
# than there are losses. So a family shares a colour, and line styles tell its members apart where curves cross.
SOLID, DASHED, DOTTED, DASH_DOT = "-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5))
DASH_DOT_DOT, LONG, SHORT = (0, (5, 1.5, 1, 1.5, 1, 1.5)), (0, (9, 2)), (0, (2, 1))
LOSS_LOOKS: dict[str, tuple[str, Any]] = {
    "none": ("#6b6b6b", SOLID),
    "sft": ("#E69F00", SOLID),
    "csft": ("#E69F00", DASHED),
    "slic": ("#CC79A7", SOLID),
    "rrhf": ("#CC79A7", DASHED),
    "dpo": ("#0072B2", SOLID),
    "cdpo": ("#0072B2", DASHED),
    "robust_dpo": ("#0072B2", DOTTED),
    "rdpo": ("#0072B2", DASH_DOT),
    "humanline_dpo": ("#0072B2", LONG),
    "ipo": ("#56B4E9", SOLID),
    "kto": ("#D55E00", SOLID),
    "kto_no_reference_point": ("#D55E00", DASHED),
    "kto_concave": ("#D55E00", DOTTED),
    "kto_risk_neutral": ("#D55E00", DASH_DOT),
    "kto_no_reference": ("#D55E00", DASH_DOT_DOT),
    "kto_kahneman_tversky": ("#D55E00", SHORT),
    "humanline_kto": ("#D55E00", LONG),
    "bco": ("#882255", SOLID),
    "nca": ("#882255", DASHED),
    "apo_zero": ("#999933", SOLID),
    "apo_down": ("#999933", DASHED),
    "ppo": ("#332288", DASHED),
    "ppo kl_weight=0": ("#332288", SOLID),
    "simpo": ("#009E73", SOLID),
    "cpo": ("#009E73", DASHED),
    "orpo": ("#009E73", DOTTED),
}
OTHER_COLOURS = ["#AA4499", "#117733", "#661100", "#DDCC77"]
OTHER_LOSS_LINES = [SOLID, DASHED, DOTTED, DASH_DOT, DASH_DOT_DOT]
START_MARKERS = {"base": "o", "sft": "s"}
OTHER_MARKERS = ["D", "^", "v", "<", ">"]
START_LINES: dict[str, Any] = {"base": DASHED, "sft": SOLID}
OTHER_LINES: list[Any] = [":", "-.", (0, (6, 1.5, 1, 1.5))]

Width = Literal["column", "page"]
WIDTHS: dict[Width, float] = {"page": 6.75, "column": 3.35}
"""Inches: the full text width, and one column, of a two-column page. Every figure is drawn for both."""
MAX_LABELS: dict[Width, int] = {"page": 30, "column": 20}
"""Characters of a label in a figure; tables show all of it."""
FONT_SIZES: dict[Width, float] = {"page": 8.5, "column": 8.0}
Value = TypeVar("Value")
_width: ContextVar[Width] = ContextVar("width", default="page")
LEGEND_WIDTH = 0.94
"""Of the figure, at most: letters are a few per cent wider in print than on the screen that they are measured for."""
LEGEND_HEIGHT = 0.6
"""Inches that figures leave for it."""
DPI = 200
"""Of PNG files; room for labels is made at the same resolution, since letters are not as wide at another one."""
GRID = "#e3e3e3"
Options._drop_tables_default += ["GDEF", "GPOS", "GSUB"]
"""Of the fonts in PDF files, whose letters have their places: reading these was most of the work of writing a file."""


def loss_name(method: str) -> str:
    """How a loss, or a loss with the configuration that tells it apart ("kto beta=0.1"), is shown."""
    if method in LOSS_NAMES:
        return LOSS_NAMES[method]
    loss, _, variant = method.partition(" ")
    return f"{LOSS_NAMES.get(loss, loss)} {variant}".strip()


def short(label: str, limit: int | None = None) -> str:
    """A label for a figure: beginning and end of one that is longer than ``limit``, around an ellipsis."""
    limit = MAX_LABELS[width()] if limit is None else limit
    if len(label) <= limit:
        return label
    end = (limit - 1) // 2
    return f"{label[: limit - 1 - end].rstrip()}…{label[-end:].lstrip()}"


def folded(label: str, limit: int) -> str:
    """A label on one line or two of at most ``limit`` characters each, broken between words, or else after a hyphen or
    underscore; ``short`` where that is not enough."""
    words = " ".join(re.sub("(?<=[-_])", "\v", word) if len(word) > limit else word for word in label.split())
    lines = wrap(words, limit, replace_whitespace=False, break_long_words=False, break_on_hyphens=False)
    lines = [line.replace("\v", "") for line in lines]
    fits = len(lines) <= 2 and all(len(line) <= limit for line in lines)
    return "\n".join(lines) if fits else short(label, limit)


def start_name(start: str) -> str:
    """How a start is shown."""
    return START_NAMES.get(start, start)


def loss_order(method: str) -> tuple[int, str]:
    """Sort key: the order of LOSS_NAMES, then all others by name."""
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
    known = LOSS_LOOKS.get(method)
    return known[0] if known else OTHER_COLOURS[_hash(method) % len(OTHER_COLOURS)]


def loss_line(method: str) -> Any:
    """The line style of a loss, for curves that cross in one panel. Losses of one colour have different ones."""
    known = LOSS_LOOKS.get(method)
    return known[1] if known else OTHER_LOSS_LINES[_hash(f"line {method}") % len(OTHER_LOSS_LINES)]


def marker(start: str) -> str:
    """The marker of a start."""
    return START_MARKERS.get(start) or OTHER_MARKERS[_hash(start) % len(OTHER_MARKERS)]


def line(start: str) -> Any:
    """The line style of a start."""
    return START_LINES.get(start) or OTHER_LINES[_hash(start) % len(OTHER_LINES)]


@contextmanager
def at(chosen: Width) -> Iterator[None]:
    """Figures that are drawn within have this width, its font size and labels that fit it."""
    token = _width.set(chosen)
    try:
        yield
    finally:
        _width.reset(token)


def width() -> Width:
    """The width that figures are being drawn for: "page" unless ``at`` says otherwise."""
    return _width.get()


def fitting(page: Value, column: Value) -> Value:
    """Of two values (numbers of panels side by side, say), the one for the width that is being drawn for."""
    return page if width() == "page" else column


def font_size() -> float:
    """Points, of the largest text in a figure."""
    return FONT_SIZES[width()]


def settings(chosen: Width | None = None) -> AbstractContextManager[None]:
    """A context with the suite's matplotlib settings, for the width being drawn for; draw and save within it."""
    size = FONT_SIZES[chosen or width()]
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


def figure(height: float, chosen: Width | None = None) -> Figure:
    """An empty figure of the width that is being drawn for and a height in inches; its layout makes room for labels."""
    return Figure(figsize=(WIDTHS[chosen or width()], height), layout="constrained", dpi=DPI)


def legend(drawing: Figure, handles: Sequence[Artist]) -> Legend:
    """A legend above all panels, with as many columns as fit the figure, which grows where it has many lines."""
    columns = len(handles)
    while True:
        made = drawing.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)
        box = made.get_window_extent()
        if columns <= 1 or box.width <= LEGEND_WIDTH * drawing.bbox.width:
            break
        made.remove()
        columns -= 1
    width, height = drawing.get_size_inches()
    drawing.set_size_inches(width, height + max(0.0, box.height / drawing.dpi - LEGEND_HEIGHT))
    return made


def start_handles(starts: Iterable[str]) -> list[Line2D]:
    """Legend entries for starts, by marker."""
    return [
        Line2D(
            [], [], linestyle="none", marker=marker(start), color="#333333", label=short(f"from {start_name(start)}")
        )
        for start in starts
    ]


def save(drawing: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.png`` and ``name.pdf``, in the size of the figure; no time is stored: same figure, same bytes.

    Where a label does not fit, the files are larger than the figure rather than the label clipped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    engine = drawing.get_layout_engine()
    if engine is not None:
        engine.execute(drawing)
        drawing.set_layout_engine(None)  # settled: with an engine, each file would cost two drawings more
    whole = Bbox.from_bounds(0, 0, *drawing.get_size_inches())
    labels = drawing.get_tightbbox().padded(0.02)
    box = whole if _within(labels, whole) else Bbox.union([whole, labels])
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    drawing.savefig(png, dpi=DPI, bbox_inches=box, metadata={"Software": None})
    drawing.savefig(pdf, bbox_inches=box, metadata={"CreationDate": None, "Producer": None})
    return png, pdf


def _within(inner: Bbox, outer: Bbox, slack: float = 0.03) -> bool:
    return bool(
        inner.x0 >= outer.x0 - slack
        and inner.y0 >= outer.y0 - slack
        and inner.x1 <= outer.x1 + slack
        and inner.y1 <= outer.y1 + slack
    )


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
