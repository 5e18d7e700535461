"""``python -m analysis.laboratory``: docs/findings.md and its figures from the records of the laboratory's sweeps."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.laboratory.page import write
from analysis.laboratory.question import questions
from kto_bench.results import RecordError, Sweep, available


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 where records cannot be used, or those of a question that was asked for by name are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.laboratory",
        description="Write the page of findings and its figures from the records of the laboratory's sweeps.",
        epilog="The sweeps are those of sweeps/laboratory; your own records go before the committed ones.",
    )
    known = {question.sweep.removeprefix("laboratory_"): question for question in questions()}
    parser.add_argument(
        "--only", nargs="+", metavar="QUESTION", choices=list(known), help=f"some questions: {', '.join(known)}"
    )
    parser.add_argument("--results", type=Path, default=Path("results"), help="where records are (default: results)")
    parser.add_argument("--out", type=Path, default=Path("docs/findings.md"), help="the page (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        there = available(options.results)
        chosen = [known[name] for name in options.only or known]
        asked = [
            (question, Sweep.load(question.sweep, options.results) if options.only or question.sweep in there else None)
            for question in chosen
        ]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write(asked, options.out, options.out.parent / options.out.stem)
    except (RecordError, OSError) as error:
        print(f"analysis.laboratory: {error}", file=sys.stderr)
        return 1
    waiting = sum(sweep is None for _, sweep in asked)
    print(f"{options.out}: {len(asked) - waiting} questions answered, {waiting} not yet run")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
