"""``kto-bench-report``: redraw every figure and table of a sweep from its records, and one page that shows them all."""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from analysis import style
from analysis.estimates import rows_of
from analysis.findings import findings
from analysis.registry import Drawing, Entry, NoDataError, Sheet, discover
from analysis.samples import samples
from kto_bench.results import RecordError, Sweep, flatten, varying

MAX_TRACEBACK_CHARACTERS = 6000


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


def build(sweep: Sweep, out: Path, progress: Callable[[str], None] = lambda message: None) -> Path:
    """Write ``figures/``, ``tables/`` and ``index.html`` under ``out``; returns the page.

    Files of figures and tables that an earlier report had and this sweep has no data for are removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress("comparing runs")
    found = findings(sweep)
    tables = [_table(name, entry, sweep, out / "tables", progress) for name, entry in discover("TABLE").items()]
    figures = [_figure(name, entry, sweep, out / "figures", progress) for name, entry in discover("FIGURE").items()]
    progress("writing the page")
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            sweep=sweep.name,
            findings=found,
            figures=figures,
            tables=tables,
            samples=samples(sweep),
            problems=_problems(sweep),
            configuration=_differences(sweep, "config.json"),
            environment=_differences(sweep, "environment.json"),
        )
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _figure(name: str, entry: Entry, sweep: Sweep, folder: Path, progress: Callable[[str], None]) -> Shown:
    progress(f"figure: {name}")
    try:
        drawing: Drawing = entry.make(sweep)
    except NoDataError as reason:
        return _skipped(name, entry, reason, [folder / f"{name}.png", folder / f"{name}.pdf"], progress)
    with style.settings():
        png, _ = style.save(drawing.figure, folder, name)
    image = base64.b64encode(png.read_bytes()).decode()
    return Shown(name, entry.title, drawing.caption, image=f"data:image/png;base64,{image}")


def _table(name: str, entry: Entry, sweep: Sweep, folder: Path, progress: Callable[[str], None]) -> Shown:
    progress(f"table: {name}")
    try:
        sheet: Sheet = entry.make(sweep)
    except NoDataError as reason:
        return _skipped(name, entry, reason, [folder / f"{name}.csv", folder / f"{name}.tex"], progress)
    folder.mkdir(parents=True, exist_ok=True)
    sheet.numbers.to_csv(folder / f"{name}.csv", index=False)
    latex = sheet.display.map(_latex).rename(columns=_latex).to_latex(index=False)
    (folder / f"{name}.tex").write_text(latex, encoding="utf-8")
    rows = tuple(tuple(map(str, row)) for row in sheet.display.itertuples(index=False, name=None))
    return Shown(name, entry.title, sheet.caption, columns=tuple(map(str, sheet.display.columns)), rows=rows)


def _skipped(name: str, entry: Entry, reason: NoDataError, stale: list[Path], progress: Callable[[str], None]) -> Shown:
    progress(f"  skipped: {reason}")
    for path in stale:
        path.unlink(missing_ok=True)
    return Shown(name, entry.title, skipped=str(reason))


def _latex(text: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        "<": "$<$", ">": "$>$", "−": "$-$", "–": "--", "×": r"$\times$", "·": r"$\cdot$", "\n": " ",
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)


def _problems(sweep: Sweep) -> list[dict[str, str]]:
    """Runs that failed, were preempted or skipped, or could not be read, with all that is known about why."""
    rows = sweep.runs[~sweep.runs["state"].isin(["done", "running"])]
    problems = []
    for row in rows_of(rows):
        trace = row["traceback"]
        if len(trace) > MAX_TRACEBACK_CHARACTERS:
            trace = (
                f"[the first {len(trace) - MAX_TRACEBACK_CHARACTERS} characters are in status.json]\n"
                + trace[-MAX_TRACEBACK_CHARACTERS:]
            )
        problems.append({"run": row["run"], "state": row["state"], "reason": row["reason"], "traceback": trace})
    return problems


def _differences(sweep: Sweep, name: str) -> dict[str, Any]:
    """A file of every run as what all runs share, and the values of what differs."""
    files = {record.run: flatten(record.json(name)) for record in sweep.records}
    files = {run: values for run, values in files.items() if values}
    differing = varying(files.values())
    shared = next(iter(files.values()), {})
    return {
        "shared": [(key, _plain(value)) for key, value in shared.items() if key not in differing],
        "columns": differing,
        "runs": [(run, [_plain(values.get(key, "")) for key in differing]) for run, values in files.items()],
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 1 where the sweep or a record cannot be used."""
    parser = argparse.ArgumentParser(
        prog="kto-bench-report",
        description="Redraw all figures and tables of a sweep from its records, and write one self-contained page.",
        epilog="Example: kto-bench-report quickstart, then open reports/quickstart/index.html. Needs no checkpoint, "
        "no GPU and no network, and works while the sweep still runs.",
    )
    parser.add_argument("sweep", help="name of the sweep: a folder in RESULTS or in RESULTS/reference")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the records (default: results)"
    )
    parser.add_argument("--out", type=Path, help="folder of the report (default: reports/SWEEP)")
    options = parser.parse_args(arguments)
    try:
        sweep = Sweep.load(options.sweep, options.results)
        print(f"{len(sweep.records)} runs in {sweep.folder}")
        page = build(sweep, options.out or Path("reports") / sweep.name, progress=print)
    except (RecordError, OSError) as error:
        print(f"kto-bench-report: {error}", file=sys.stderr)
        return 1
    print(f"report: {page}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
