"""Pages: figures and tables as files, and as what a page shows of them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from analysis import style
from analysis.registry import Drawing, NoDataError, Sheet

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Shown:
    """A figure or table as the page needs it; ``skipped`` is the reason where there is nothing to show."""

    name: str
    title: str
    caption: str = ""
    image: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    skipped: str = ""


def figure(name: str, title: str, make: Callable[[], Drawing], folder: Path, progress: Progress) -> Shown:
    """Draw ``make()`` into ``folder``/name.png and .pdf. Where it has no data, files of an earlier report go."""
    progress(f"figure: {name}")
    try:
        drawing = make()
    except NoDataError as reason:
        return _skipped(name, title, reason, [folder / f"{name}.png", folder / f"{name}.pdf"], progress)
    with style.settings():
        png, _ = style.save(drawing.figure, folder, name)
    image = base64.b64encode(png.read_bytes()).decode()
    return Shown(name, title, drawing.caption, image=f"data:image/png;base64,{image}")


def table(name: str, title: str, make: Callable[[], Sheet], folder: Path, progress: Progress) -> Shown:
    """Write ``make()`` into ``folder``/name.csv and .tex. Where it has no data, files of an earlier report go."""
    progress(f"table: {name}")
    try:
        sheet = make()
    except NoDataError as reason:
        return _skipped(name, title, reason, [folder / f"{name}.csv", folder / f"{name}.tex"], progress)
    folder.mkdir(parents=True, exist_ok=True)
    sheet.numbers.to_csv(folder / f"{name}.csv", index=False)
    written = sheet.display.map(latex).rename(columns=latex).to_latex(index=False)
    (folder / f"{name}.tex").write_text(written, encoding="utf-8")
    rows = tuple(tuple(map(str, row)) for row in sheet.display.itertuples(index=False, name=None))
    return Shown(name, title, sheet.caption, columns=tuple(map(str, sheet.display.columns)), rows=rows)


def _skipped(name: str, title: str, reason: NoDataError, stale: list[Path], progress: Progress) -> Shown:
    progress(f"  skipped: {reason}")
    for path in stale:
        path.unlink(missing_ok=True)
    return Shown(name, title, skipped=str(reason))


def latex(text: str) -> str:
    """Text with what is special to LaTeX, or is not ASCII, written as LaTeX has it."""
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": "$<$", ">": "$>$", "−": "$-$", "–": "--", "×": r"$\times$", "·": r"$\cdot$", "\n": " ",
        "π": r"$\pi$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "|": "$|$", "∞": r"$\infty$",
        "“": "``", "”": "''", "†": r"\textdagger{}",
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)


def templates() -> jinja2.Environment:
    """The pages' templates; all that they show is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
