"""The command ``python -m kto_bench.feedback.importers SET SOURCE TARGET.jsonl``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kto_bench.feedback.importers as importers
from kto_bench.feedback.importers.report import Report
from kto_bench.feedback.types import FeedbackError

Convert = Callable[[Path, Report], Iterator[dict[str, Any]]]


def find_importers() -> dict[str, Any]:
    """The modules of this folder that have ``convert``, by the name of their command."""
    names = [module.name for module in pkgutil.iter_modules(importers.__path__) if not module.name.startswith("_")]
    modules = {name: importlib.import_module(f"{importers.__name__}.{name}") for name in names}
    return {name.replace("_", "-"): module for name, module in modules.items() if hasattr(module, "convert")}


def import_set(convert: Convert, source: Path, target: Path) -> tuple[int, Report]:
    """Write the rows of ``source`` to ``target``, whole or not at all; returns how many, and the report."""
    if target.exists():
        raise FeedbackError(f"{target}: it exists already; remove it or name another file")
    report = Report()
    count = 0
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for row in convert(source, report):
                count += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return count, report


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kto_bench.feedback.importers", description=importers.__doc__)
    sets = parser.add_subparsers(dest="set", required=True, metavar="SET")
    for name, module in find_importers().items():
        command = sets.add_parser(
            name,
            help=module.__doc__.partition("\n")[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("source", type=Path, metavar="SOURCE", help="file or folder as published")
        command.add_argument("target", type=Path, metavar="TARGET.jsonl", help="file to write; must not exist yet")
        command.set_defaults(convert=module.convert)
    chosen = parser.parse_args(arguments)
    try:
        count, report = import_set(chosen.convert, chosen.source, chosen.target)
    except (FeedbackError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"read {report.read}, wrote {count} rows to {chosen.target}", *report.lines(), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
