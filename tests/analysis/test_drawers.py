"""Figures are the same files and words, whoever draws them."""

from functools import partial

import pytest

from analysis.drawers import Plan, figures
from analysis.registry import NoDataError, discover


def plans(sweep):
    return [Plan(name, entry.title, partial(entry.make, sweep)) for name, entry in discover("FIGURE").items()]


def nothing():
    raise NoDataError("there is nothing")


def test_several_processes_draw_what_one_does(sweep, tmp_path):
    wanted = [*plans(sweep)[:3], Plan("nothing", "Nothing", nothing), *plans(sweep)[-2:]]
    said = {1: [], 2: []}
    one, two = (figures(wanted, tmp_path / str(count), said[count].append, count) for count in said)
    assert one == two
    assert said[1] == said[2]
    assert "  skipped: there is nothing" in said[1]
    names = {path.name for path in (tmp_path / "1").iterdir()}
    assert names == {path.name for path in (tmp_path / "2").iterdir()}
    assert len(names) == 5 * 2 * 3  # widths, files
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def broken():
    raise ZeroDivisionError("of one figure")


def test_what_goes_wrong_in_another_process_is_told(tmp_path):
    with pytest.raises(ZeroDivisionError, match="of one figure"):
        figures([Plan("one", "One", broken), Plan("two", "Two", nothing)], tmp_path, print, processes=2)
