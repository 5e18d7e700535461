"""``kto-bench-report halo``: value functions and HALO verdicts of all losses, on one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis import page
from analysis.halo import figures, sentences, tables
from analysis.halo.catalogue import Subject, catalogue, subjects
from analysis.halo.study import studies
from kto_bench.__main__ import CONFIG_FOLDER
from kto_bench.component import USAGE_ERROR, ConfigError
from kto_bench.results import flatten

VALUES_IN_NUMBERS = "Value functions in numbers"


def build(
    chosen: Sequence[Subject], out: Path, named: bool = False, progress: page.Progress = lambda message: None
) -> Path:
    """Write ``figures/``, ``tables/`` and ``index.html`` under ``out``; returns the page.

    ``named``: the user chose these losses, so all of them go on the figure with one axis.
    """
    found = studies(chosen, progress)
    for study in found:
        _ = study.verdict  # a loss that cannot be evaluated is refused before anything is written
    out.mkdir(parents=True, exist_ok=True)
    folder = out / "figures"
    drawn = [
        page.figure("main_losses", "Value functions", partial(figures.together, found, named), folder, progress),
        page.figure(
            "value_functions", "Value functions, loss by loss", partial(figures.apart, found), folder, progress
        ),
        page.figure("slopes", "What each loss pays attention to", partial(figures.slopes, found), folder, progress),
    ]
    folder = out / "tables"
    tabulated = [
        page.table("halo_verdicts", "Verdicts", partial(tables.verdicts, found), folder, progress),
        page.table("counter_examples", "Counter-examples", partial(tables.counter_examples, found), folder, progress),
        page.table("value_functions", VALUES_IN_NUMBERS, partial(tables.value_functions, found), folder, progress),
    ]
    progress("writing the page")
    written = (
        page.templates()
        .get_template("halo.html.jinja")
        .render(
            findings=sentences.findings(found),
            definition=sentences.DEFINITION,
            limits=sentences.LIMITS,
            figures=drawn,
            tables=tabulated,
            settings=[(study.subject.title, _settings(study.subject)) for study in found],
        )
    )
    path = out / "index.html"
    path.write_text(written, encoding="utf-8")
    return path


def _settings(subject: Subject) -> list[tuple[str, str]]:
    loss = subject.loss
    fields = [(key, str(value)) for key, value in flatten(loss.model_dump(mode="json")).items()]
    return [("class", f"{type(loss).__module__}.{type(loss).__qualname__}"), ("feedback", loss.feedback), *fields]


def main(arguments: list[str]) -> int:
    """The command line, without its first word. Returns 0, or 2 for a choice that is refused."""
    parser = argparse.ArgumentParser(
        prog="kto-bench-report halo",
        description="What each loss says about people: its implied value functions, computed by its own code, and "
        "whether it is a human-aware loss (HALO). One self-contained page, with figures and tables beside it.",
        epilog="Example: kto-bench-report halo --loss dpo kto kto.beta=0.5, then open reports/halo/index.html. A loss "
        "of your own needs no more than its YAML.",
    )
    parser.add_argument(
        "--loss",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="losses, by the name of their YAML (default: all); NAME.FIELD=VALUE[,FIELD=VALUE...] is one with fields "
        "changed",
    )
    parser.add_argument(
        "--config-dir", type=Path, help="a folder of your own with loss/*.yaml, as kto-bench --config-dir takes it"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("reports/halo"), help="folder of the report (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    sys.path.append(str(Path.cwd()))  # a user's own losses lie where the command is typed
    folders = [CONFIG_FOLDER / "loss", *([options.config_dir / "loss"] if options.config_dir else [])]
    try:
        chosen = subjects(folders, options.loss) if options.loss else catalogue(folders)
        print(f"{len(chosen)} losses")
        path = build(chosen, options.out, named=bool(options.loss), progress=print)
    except (ConfigError, OSError) as error:
        print(f"kto-bench-report halo: {error}", file=sys.stderr)
        return USAGE_ERROR
    print(f"report: {path}")
    return 0
