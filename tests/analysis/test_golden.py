"""Committed results regenerate: every figure and table of the golden sweep and of the reference sweeps."""

import sys

import pandas as pd
import pytest
from places import ROOT

sys.path.append(str(ROOT / "tests" / "golden"))
import golden

from analysis.registry import discover


@pytest.fixture(scope="module", params=golden.sweeps())
def rebuilt(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    return request.param, out, golden.rebuild(request.param, out)


def test_tables_are_the_verified_ones(rebuilt):
    name, _, tables = rebuilt
    verified = {path.stem: path for path in (golden.HERE / "tables" / name).glob("*.csv")}
    assert set(tables) == set(verified), "python tests/golden/golden.py accepts a change"
    complaints = [golden.difference(path, verified[table]) for table, path in tables.items()]
    assert not any(complaints), "\n".join(filter(None, complaints))


def test_every_figure_that_has_data_is_drawn_for_both_widths(rebuilt):
    name, out, tables = rebuilt
    told = pd.read_csv(tables["figures"], keep_default_na=False)
    assert set(told["figure"]) == {*discover("FIGURE"), *discover("PAPER_FIGURE")}
    drawn = set(told.loc[told["skipped"] == "", "figure"])
    assert {"win_rate", "benchmarks", "length", "training", "data_report"} <= drawn, name
    widths, kinds = ("", "-column"), ("png", "pdf", "tex")
    expected = {f"{figure}{width}.{kind}" for figure in drawn for width in widths for kind in kinds}
    assert {path.name for path in (out / "figures").iterdir()} == expected


def test_the_golden_sweep_has_a_failed_and_a_skipped_run():
    runs = pd.read_csv(golden.HERE / "tables" / "mini" / "runs_table.csv")
    assert runs["state"].value_counts().to_dict() == {"done": 6, "failed": 1, "skipped": 1}
    assert runs.loc[runs["state"] != "done", "reason"].str.len().min() > 10


def test_a_changed_number_is_noticed_and_rounding_is_not(tmp_path):
    verified = golden.HERE / "tables" / "mini" / "summary_table.csv"
    table = pd.read_csv(verified)
    for factor, noticed in ((1 + 1e-9, False), (1.001, True)):
        table.assign(win_rate=table["win_rate"] * factor).to_csv(tmp_path / "summary_table.csv", index=False)
        assert bool(golden.difference(tmp_path / "summary_table.csv", verified)) == noticed
