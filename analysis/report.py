"""``kto-bench-report``: redraw every figure and table of a sweep from its records, and one page that shows them all."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import page, paper_report
from analysis.data_report import examples
from analysis.drawers import Plan, figures
from analysis.estimates import rows_of
from analysis.evidence import Evidence
from analysis.findings import findings
from analysis.registry import discover
from analysis.samples import samples
from analysis.wandb_report import WandbError, publish
from kto_bench import published as studies
from kto_bench.published import Published
from kto_bench.record import LOSS_REPORT
from kto_bench.results import RecordError, Sweep, available, flatten, varying

MAX_TRACEBACK_CHARACTERS = 6000
MAX_TRACEBACKS = 60
"""Of a sweep on its page; all are in the records."""


def build(
    sweep: Sweep,
    out: Path,
    progress: page.Progress = lambda message: None,
    published: Published | None = None,
) -> Path:
    """Write ``figures/``, ``tables/`` and ``index.html`` under ``out``; returns the page.

    Files of figures and tables that an earlier report had and this sweep has no data for are removed. ``published`` is
    laid over the figures of papers.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress("comparing runs")
    found = findings(sweep)
    tables = [
        page.table(name, entry.title, partial(entry.make, sweep), out / "tables", progress)
        for name, entry in discover("TABLE").items()
    ]
    plans = [Plan(name, entry.title, partial(entry.make, sweep)) for name, entry in discover("FIGURE").items()]
    drawn = figures(plans, out / "figures", progress)
    paper = paper_report.parts(Evidence(sweep, published), out, progress)
    progress("writing the page")
    written = (
        page.templates()
        .get_template("report.html.jinja")
        .render(
            paper=paper,
            sweep=sweep.name,
            findings=found,
            figures=drawn,
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
        description="Redraw all figures and tables of a sweep from its records, and write one self-contained page; or "
        "those of a published study from its numbers.",
        epilog="Example: kto-bench-report quickstart, then open reports/quickstart/index.html. Needs no checkpoint, "
        "no GPU and no network, and works while the sweep still runs. `kto-bench-report kto_paper` redraws the KTO "
        "paper's figures and tests its claims (docs/published.md). `kto-bench-report halo` is another report, which "
        "needs no sweep: what each loss says about people (kto-bench-report halo --help).",
    )
    parser.add_argument(
        "sweep",
        metavar="NAME",
        help="name of the sweep: a folder in RESULTS or in RESULTS/reference; or of a study in RESULTS/published",
    )
    parser.add_argument(
        "--published",
        metavar="STUDY",
        help="a study in RESULTS/published, whose numbers are laid over those of the sweep",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the records (default: results)"
    )
    parser.add_argument("--out", type=Path, help="folder of the report (default: reports/NAME)")
    parser.add_argument(
        "--wandb", action="store_true", help="build the report in W&B instead, over the runs that were mirrored there"
    )
    parser.add_argument("--project", help="W&B project (default: where the runs were mirrored to)")
    parser.add_argument("--entity", help="W&B user or team (default: where the runs were mirrored to, or your own)")
    options = parser.parse_args(arguments)
    if options.sweep == LOSS_REPORT:
        parser.error(f"{LOSS_REPORT!r} is the report of the losses and no sweep; name it first")
    if options.wandb and (options.out or options.published):
        parser.error("--out and --published are about the local report; --wandb writes to W&B instead")
    if not options.wandb and (options.project or options.entity):
        parser.error("--project and --entity say where in W&B: add --wandb")
    try:
        if options.wandb:
            sweep = Sweep.load(options.sweep, options.results)
            print(f"{len(sweep.records)} runs in {sweep.folder}")
            report = publish(sweep, options.project, options.entity, progress=print)
        else:
            report = str(_build(options.sweep, options.published, options.results, options.out))
    except (RecordError, WandbError, OSError) as error:
        print(f"kto-bench-report: {error}", file=sys.stderr)
        return 1
    print(f"report: {report}")
    return 0


def _build(name: str, study: str | None, results: Path, out: Path | None) -> Path:
    """The report of a sweep, with a published study laid over it where one is named, or of a published study."""
    known = studies.available(results)
    if study is not None and name in known:
        raise RecordError(f"{name!r} is a published study itself: --published lays one over a sweep")
    published = None if study is None else Published.load(study, results)
    if name in known:
        if name in available(results):
            raise RecordError(f"{name!r} is a sweep and a published study in {results}: rename one of the two folders")
        published = Published.load(name, results)
        print(f"{len(published.judged)} judged runs and {len(published.scores)} scores in {published.folder}")
        return paper_report.build(published, out or Path("reports") / name, progress=print)
    try:
        sweep = Sweep.load(name, results)
    except RecordError as error:
        raise RecordError(f"{error} Published studies: {', '.join(known) or 'none'}.") from error
    print(f"{len(sweep.records)} runs in {sweep.folder}")
    return build(sweep, out or Path("reports") / sweep.name, print, published)


if __name__ == "__main__":
    raise SystemExit(main())
