"""``kto-bench-share``: the records of a finished sweep as small files, to be committed or sent to others.

Everything is kept; what is long is packed, which makes a record about an eighth. What says which run it was stays
legible. Figures, tables and reports read packed records like any others.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kto_bench.lines import PACKED, pack
from kto_bench.results import Record, RecordError, Sweep

USAGE_ERROR = 2
LEGIBLE = ("run.json", "status.json", "config.json", "environment.json", "scores.json", "timing.json", "data.json")
UNFINISHED = ("pending", "running", "preempted", "unreadable")


def share(sweep: Sweep, into: Path) -> dict[str, int]:
    """Write the records of ``sweep`` below ``into``, which must not exist; returns how many there are by state.

    Superseded runs are left behind: nothing is drawn from them. Raises RecordError where cells are still to be done, or
    where ``into`` is there.
    """
    records = [record for record in [*sweep.records, *sweep.trials] if record.state != "superseded"]
    unfinished = [record for record in records if record.state in UNFINISHED]
    if unfinished:
        raise RecordError(
            f"sweep {sweep.name!r}: {len(unfinished)} of {len(records)} cells are not finished, such as "
            f"{unfinished[0].run} ({unfinished[0].state}); launch the sweep again, then share it"
        )
    if into.exists():
        raise RecordError(f"{into} exists; remove it, or choose another folder with --to")
    beside = into.with_name(f".{into.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    for record in records:
        _copy(record, beside / record.folder.name)
    beside.rename(into)
    return dict(Counter(record.state for record in records))


def _copy(record: Record, into: Path) -> None:
    into.mkdir(parents=True)
    for path in sorted(record.folder.iterdir()):
        if path.suffix == PACKED or path.name in LEGIBLE:
            shutil.copyfile(path, into / path.name)
        elif path.is_file():
            pack(path, into)


def main(arguments: Sequence[str] | None = None) -> int:
    """``kto-bench-share``: 0, or 2 where the sweep cannot be shared."""
    parser = argparse.ArgumentParser(
        prog="kto-bench-share",
        description="Write the records of a finished sweep as small files, to be committed or sent to others.",
        epilog="Reports read such records like any others: kto-bench-report reference/SWEEP, or just SWEEP.",
    )
    parser.add_argument("sweep", help="name of the sweep: a folder in RESULTS")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where records are (default: results)")
    parser.add_argument(
        "--to", type=Path, help="folder to write, which must not exist (default: RESULTS/reference/SWEEP)"
    )
    chosen = parser.parse_args(arguments)
    try:
        sweep = Sweep.load(chosen.sweep, chosen.results)
        into = chosen.to or chosen.results / "reference" / sweep.name
        counts = share(sweep, into)
    except (RecordError, OSError) as error:
        print(f"kto-bench-share: {error}", file=sys.stderr)
        return USAGE_ERROR
    size = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{into}: {told}; {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
