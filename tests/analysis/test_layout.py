"""Every figure, at both widths: no label outside the figure, none upon another, and files of exactly that width."""

import layout
import pytest
import synthetic
from PIL import Image

from analysis import style
from analysis.registry import NoDataError, discover
from kto_bench.results import Sweep

FIGURES = discover("FIGURE")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    synthetic.write_sweep(folder, seeds=2, prompts=32)
    synthetic.write_mixed(folder, prompts=16)
    synthetic.write_tuned(folder, prompts=16)
    return [Sweep.load(name, folder) for name in ("planted", "mixed", "tuned")]


@pytest.mark.parametrize("width", style.WIDTHS)
@pytest.mark.parametrize("name", FIGURES)
def test_labels_lie_within_and_apart(name, width, sweeps, tmp_path):
    drawn = 0
    for sweep in sweeps:
        with style.at(width):
            try:
                figure = FIGURES[name].make(sweep).figure
            except NoDataError:
                continue
            drawn += 1
            assert layout.complaints(figure) == [], (name, sweep.name)
            if drawn == 1:
                with style.settings():
                    png, _ = style.save(figure, tmp_path, name)
                with Image.open(png) as image:
                    assert image.width == pytest.approx(200 * style.WIDTHS[width], abs=1)
    assert drawn, f"no planted sweep has data for {name}"


def test_labels_that_lie_outside_or_upon_each_other_are_noticed():
    with style.settings():
        figure = style.figure(2.0)
        axis = figure.subplots()
        axis.text(0.5, 0.5, "first", transform=axis.transAxes)
        axis.text(0.51, 0.5, "second", transform=axis.transAxes)
        axis.text(0.9, 0.9, "far beyond the edge of it all", transform=axis.transAxes)
    found = layout.complaints(figure)
    assert any("'first' overlaps 'second'" in one for one in found)
    assert any("'far beyond the edge of it all' lies outside" in one for one in found)
