"""Pages: figures and tables as files, and as what a page shows of them."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup
from PIL import Image

from analysis import latex, style
from analysis.registry import Drawing, NoDataError, Sheet

Progress = Callable[[str], None]
MAX_IMAGE_BYTES = 240_000
"""Of one figure within a page, so that a dozen of them leave it below 5 MB; the files beside it are whole."""
MAX_ROWS = 2000
"""Of one table within a page: comparisons grow with the square of the number of losses. Its files have all."""


@dataclass(frozen=True)
class Shown:
    """A figure or table as the page needs it; ``skipped`` is the reason where there is nothing to show, ``left_out``
    says what is not shown, and where it is."""

    name: str
    title: str
    caption: str = ""
    image: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    numeric: tuple[str, ...] = ()
    left_out: str = ""
    skipped: str = ""


def figure(name: str, title: str, make: Callable[[], Drawing], folder: Path, progress: Progress) -> Shown:
    """Draw ``make()`` into ``folder``, for every width: name.png, .pdf and .tex (the PDF in a figure environment with
    its caption) for a page, name-column.png, .pdf and .tex for a column. Where it has no data, files of an earlier
    report go. The page shows the first.
    """
    progress(f"figure: {name}")
    images, captions = [], []
    for width in style.WIDTHS:
        file = name if width == "page" else f"{name}-{width}"
        with style.at(width):
            try:
                drawing = make()
            except NoDataError as reason:
                files = [folder / f"{name}{end}{kind}" for end in ("", "-column") for kind in (".png", ".pdf", ".tex")]
                return _skipped(name, title, reason, files, progress)
            with style.settings():
                png, pdf = style.save(drawing.figure, folder, file)
        text = latex.figure(pdf.name, drawing.caption, f"fig:{name}", star=width == "page")
        pdf.with_suffix(".tex").write_text(text, encoding="utf-8")
        images.append(png)
        captions.append(drawing.caption)
    return Shown(name, title, captions[0], image=embedded(images[0]))


def embedded(png: Path) -> str:
    """The image as a data URL of at most MAX_IMAGE_BYTES: in 256 colours, and smaller where that is not enough."""
    with Image.open(png) as opened:
        image = opened.convert("RGB")
    while True:
        written = io.BytesIO()
        image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            written, "PNG", optimize=True
        )
        if written.tell() <= MAX_IMAGE_BYTES:
            return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
        scale = min(0.9, math.sqrt(MAX_IMAGE_BYTES / written.tell()))
        smaller = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(smaller, Image.Resampling.LANCZOS)


def table(name: str, title: str, make: Callable[[], Sheet], folder: Path, progress: Progress) -> Shown:
    """Write ``make()`` into ``folder``/name.csv and .tex. Where it has no data, files of an earlier report go."""
    progress(f"table: {name}")
    try:
        sheet = make()
    except NoDataError as reason:
        return _skipped(name, title, reason, [folder / f"{name}.csv", folder / f"{name}.tex"], progress)
    folder.mkdir(parents=True, exist_ok=True)
    sheet.numbers.to_csv(folder / f"{name}.csv", index=False)
    written = latex.table(sheet.display, sheet.caption, f"tab:{name}")
    (folder / f"{name}.tex").write_text(written, encoding="utf-8")
    rows = tuple(tuple(map(str, row)) for row in sheet.display.itertuples(index=False, name=None))
    numeric = tuple(str(column) for column in sheet.display if latex.is_numeric(sheet.display[column]))
    columns = tuple(map(str, sheet.display.columns))
    left_out = f"The first {MAX_ROWS:,} of {len(rows):,} rows are here; tables/{name}.csv, beside this page, has all."
    return Shown(
        name,
        title,
        sheet.caption,
        columns=columns,
        rows=rows[:MAX_ROWS],
        numeric=numeric,
        left_out=left_out if len(rows) > MAX_ROWS else "",
    )


def _skipped(name: str, title: str, reason: NoDataError, stale: list[Path], progress: Progress) -> Shown:
    progress(f"  skipped: {reason}")
    for path in stale:
        path.unlink(missing_ok=True)
    return Shown(name, title, skipped=str(reason))


def templates() -> jinja2.Environment:
    """The pages' templates; all that they show is escaped.

    A page runs one script, ours: its policy allows the script with that hash, and no other.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = resources.files("analysis").joinpath("templates", "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {"script": Markup(script), "script_hash": f"sha256-{digest}"}
    return environment
