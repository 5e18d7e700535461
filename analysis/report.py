"""``kto-bench-report``: redraw every figure and table of a sweep from its records, and one page that shows them all."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import page
from analysis.data_report import examples
from analysis.estimates import rows_of
from analysis.findings import findings
from analysis.registry import discover
from analysis.samples import samples
from kto_bench.record import LOSS_REPORT
from kto_bench.results import RecordError, Sweep, flatten, varying

MAX_TRACEBACK_CHARACTERS = 6000
MAX_TRACEBACKS = 60
"""Of a sweep on its page; all are in the records."""


def build(sweep: Sweep, out: Path, progress: page.Progress = lambda message: None) -> Path:
    """Write ``figures/``, ``tables/`` and ``index.html`` under ``out``; returns the page.

    Files of figures and tables that an earlier report had and this sweep has no data for are removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress("comparing runs")
    found = findings(sweep)
    tables = [
        page.table(name, entry.title, partial(entry.make, sweep), out / "tables", progress)
        for name, entry in discover("TABLE").items()
    ]
    figures = [
        page.figure(name, entry.title, partial(entry.make, sweep), out / "figures", progress)
        for name, entry in discover("FIGURE").items()
    ]
    progress("writing the page")
    written = (
        page.templates()
        .get_template("report.html.jinja")
        .render(
            sweep=sweep.name,
            findings=found,
            figures=figures,
            tables=tables,
            data=examples(sweep),
            samples=samples(sweep),
            problems=_problems(sweep),
            configuration=_differences(sweep, "config.json"),
            environment=_differences(sweep, "environment.json"),
        )
    )
    path = out / "index.html"
    path.write_text(written, encoding="utf-8")
    return path


def _problems(sweep: Sweep) -> list[dict[str, str]]:
    """Runs that failed, were preempted or skipped, or could not be read, with all that is known about why."""
    runs = pd.concat([sweep.runs, sweep.tuning.runs])
    rows = runs[~runs["state"].isin(["done", "running"])]
    problems: list[dict[str, str]] = []
    for row in rows_of(rows):
        trace = row["traceback"]
        if len(trace) > MAX_TRACEBACK_CHARACTERS:
            trace = (
                f"[the first {len(trace) - MAX_TRACEBACK_CHARACTERS} characters are in status.json]\n"
                + trace[-MAX_TRACEBACK_CHARACTERS:]
            )
        if len(problems) >= MAX_TRACEBACKS and trace:
            trace = "[in status.json of the run]"
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


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 1 where the sweep or a record cannot be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [LOSS_REPORT]:
        from analysis.halo.report import main as report_losses  # brings torch, which no other report needs

        return report_losses(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="kto-bench-report",
        description="Redraw all figures and tables of a sweep from its records, and write one self-contained page.",
        epilog="Example: kto-bench-report quickstart, then open reports/quickstart/index.html. Needs no checkpoint, "
        "no GPU and no network, and works while the sweep still runs. `kto-bench-report halo` is another report, which "
        "needs no sweep: what each loss says about people (kto-bench-report halo --help).",
    )
    parser.add_argument("sweep", help="name of the sweep: a folder in RESULTS or in RESULTS/reference")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the records (default: results)"
    )
    parser.add_argument("--out", type=Path, help="folder of the report (default: reports/SWEEP)")
    options = parser.parse_args(arguments)
    if options.sweep == LOSS_REPORT:
        parser.error(f"{LOSS_REPORT!r} is the report of the losses and no sweep; name it first")
    try:
        sweep = Sweep.load(options.sweep, options.results)
        print(f"{len(sweep.records)} runs in {sweep.folder}")
        path = build(sweep, options.out or Path("reports") / sweep.name, progress=print)
    except (RecordError, OSError) as error:
        print(f"kto-bench-report: {error}", file=sys.stderr)
        return 1
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
