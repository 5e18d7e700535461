"""Verified tables: which sweeps are rebuilt, what of them is kept, and how it is compared.

``python tests/golden/golden.py`` accepts what the code makes now: it rewrites tests/golden/tables, to be read in
``git diff`` before it is committed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from analysis.laboratory.question import questions
from analysis.report import build
from kto_bench.results import Sweep

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parents[1] / "results" / "reference"
KEPT_OF_REFERENCE = ("summary_table", "budget_table", "figures")
"""The golden sweep has all of its tables verified, the larger ones these."""
RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Differences between machines in the order of a sum, and nothing more."""


def sweeps() -> dict[str, Path]:
    """Name of every sweep that is rebuilt, and the folder of results that it is in.

    Those of the laboratory are rebuilt as docs/findings.md, which is compared in tests/analysis/test_laboratory.py.
    """
    found = {folder.name: HERE / "results" for folder in sorted((HERE / "results").iterdir())}
    laboratory = {question.sweep for question in questions()}
    references = sorted(folder.name for folder in REFERENCE.iterdir() if folder.is_dir())
    return found | {name: REFERENCE for name in references if name not in laboratory}


def rebuild(name: str, out: Path) -> dict[str, Path]:
    """The report of a sweep in ``out``; returns the tables to compare by name, and "figures": what was drawn."""
    said: list[str] = []
    build(Sweep.load(name, sweeps()[name]), out, said.append)
    rows = []
    for line, following in zip(said, [*said[1:], ""], strict=True):
        if line.startswith("figure: "):
            skipped = following.removeprefix("  skipped: ") if following.startswith("  skipped: ") else ""
            rows.append({"figure": line.removeprefix("figure: "), "skipped": skipped})
    pd.DataFrame(rows).to_csv(out / "tables" / "figures.csv", index=False)
    made = {path.stem: path for path in sorted((out / "tables").glob("*.csv"))}
    return made if name == "mini" else {kept: made[kept] for kept in KEPT_OF_REFERENCE if kept in made}


def difference(made: Path, verified: Path) -> str:
    """What differs between two CSV files beyond rounding, in words; "" if nothing does."""
    now, before = pd.read_csv(made), pd.read_csv(verified)
    try:
        pd.testing.assert_frame_equal(now, before, check_dtype=False, rtol=RELATIVE, atol=ABSOLUTE)
    except AssertionError as error:
        return f"{verified.name}: {error}"
    return ""


def accept() -> None:
    """Rewrite the verified files of every sweep."""
    shutil.rmtree(HERE / "tables", ignore_errors=True)
    for name in sweeps():
        with TemporaryDirectory() as folder:
            for table, path in rebuild(name, Path(folder)).items():
                target = HERE / "tables" / name / f"{table}.csv"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        print(f"accepted: {HERE / 'tables' / name}")


if __name__ == "__main__":
    sys.exit(accept())
