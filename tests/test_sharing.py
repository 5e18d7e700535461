"""Records as small files: everything is kept, and read as before."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from places import ROOT

from kto_bench.results import Sweep
from kto_bench.sharing import main

QUICKSTART = ROOT / "results" / "reference" / "quickstart"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs of the quickstart as they came from a sweep."""
    sweep = tmp_path / "results" / "small"
    for folder in sorted(QUICKSTART.glob("kto-*-s0-*")):
        (sweep / folder.name).mkdir(parents=True)
        for path in folder.iterdir():
            (sweep / folder.name / path.name).write_bytes(path.read_bytes())
    return tmp_path / "results"


def test_what_is_shared_says_the_same_and_is_smaller(results: Path, tmp_path: Path, capsys) -> None:
    assert main(["small", "--results", str(results), "--to", str(tmp_path / "elsewhere" / "small")]) == 0
    assert "2 done" in capsys.readouterr().out
    before, after = Sweep.load("small", results), Sweep.load("small", tmp_path / "elsewhere")
    for table in ("runs", "outcomes", "completions", "benchmarks", "guards", "training"):
        pd.testing.assert_frame_equal(getattr(before, table), getattr(after, table))
    assert [one.json("data_report.json") for one in before.records] == [
        one.json("data_report.json") for one in after.records
    ]
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.*")) for folder in (before.folder, after.folder)]
    assert sizes[1] < sizes[0] / 5
    legible = {path.name for path in after.folder.rglob("*.json")}
    assert legible >= {"run.json", "status.json", "config.json", "environment.json", "scores.json"}


def test_what_is_packed_can_be_shared_again(results: Path, tmp_path: Path) -> None:
    assert main(["small", "--results", str(results), "--to", str(tmp_path / "once" / "small")]) == 0
    assert main(["small", "--results", str(tmp_path / "once"), "--to", str(tmp_path / "twice" / "small")]) == 0
    once, twice = (sorted((tmp_path / times / "small").rglob("*.*")) for times in ("once", "twice"))
    assert [path.name for path in once] == [path.name for path in twice]
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in twice]


def test_by_default_it_becomes_a_reference_sweep(results: Path) -> None:
    assert main(["small", "--results", str(results)]) == 0
    assert len(Sweep.load("reference/small", results).records) == 2
    assert main(["small", "--results", str(results)]) == 2  # it is there now


def test_a_sweep_that_is_not_finished_is_refused(results: Path, capsys) -> None:
    run = next((results / "small").iterdir())
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "preempted"}))
    assert main(["small", "--results", str(results)]) == 2
    told = capsys.readouterr().err
    assert "1 of 2 cells are not finished" in told
    assert run.name in told
    assert not (results / "reference").exists()


def test_a_sweep_that_is_not_there_is_refused(results: Path, capsys) -> None:
    assert main(["smal", "--results", str(results)]) == 2
    assert "small" in capsys.readouterr().err
