"""Every figure, at both widths: no label outside the figure, none upon another, and files of exactly that width."""

import layout
import paper_sweeps
import pytest
import synthetic
from PIL import Image
from places import ROOT

from analysis import style
from analysis.evidence import Evidence
from analysis.laboratory import dose
from analysis.laboratory.arms import UTILITY, WIN_RATE, Arms
from analysis.registry import NoDataError, discover
from kto_bench.published import Published
from kto_bench.results import Sweep

FIGURES, PAPER_FIGURES = discover("FIGURE"), discover("PAPER_FIGURE")
ONLY_PUBLISHED = ("implied_values", "temperature")


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layouts")
    synthetic.write_sweep(folder, seeds=2, prompts=32)
    synthetic.write_mixed(folder, prompts=16)
    synthetic.write_tuned(folder, prompts=16)
    return [Sweep.load(name, folder) for name in ("planted", "mixed", "tuned")]


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory):
    """Evidence for each figure of a paper: own runs, where a sweep has any, with the study laid over them."""
    folder = tmp_path_factory.mktemp("overlaid")
    paper_sweeps.write_all(folder)
    made = {}
    for name in PAPER_FIGURES:
        study = paper_sweeps.OF_STUDIES.get(name, "kto_paper" if name in ONLY_PUBLISHED else None)
        own = Sweep.load(paper_sweeps.FROM_OWN[name], folder) if name in paper_sweeps.FROM_OWN else None
        made[name] = Evidence(own, Published.load(study, ROOT / "results") if study else None)
    return made


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
                of_the_width(figure, width, tmp_path)
    assert drawn, f"no planted sweep has data for {name}"


@pytest.mark.parametrize("width", style.WIDTHS)
@pytest.mark.parametrize("name", PAPER_FIGURES)
def test_labels_of_figures_of_papers_do_too(name, width, overlaid, tmp_path):
    with style.at(width):
        figure = PAPER_FIGURES[name].make(overlaid[name]).figure
        assert layout.complaints(figure) == []
        of_the_width(figure, width, tmp_path)


@pytest.mark.parametrize("width", style.WIDTHS)
def test_labels_of_the_laboratorys_figures_do_too(width, tmp_path):
    for loss in ("dpo", "kto_no_reference_point", "simpo"):
        for start in ("base", "sft"):
            config = {"loss": {"name": loss}, "start": {"name": start}}
            synthetic.write_run(tmp_path / "results" / "planted", loss, start, 0, prompts=16, config=config)
    arms = Arms(Sweep.load("planted", tmp_path / "results"), {"loss": "loss.name", "start": "start.name"})
    losses = sorted(arms.values("loss"))
    lines = [dose.Line.of_loss(loss) for loss in losses]
    panels = [dose.Panel(arms, measure, "start", arms.values("start"), "A title") for measure in (UTILITY, WIN_RATE)]
    with style.at(width):
        figure = dose.draw([*panels, panels[0]], lines)
        assert layout.complaints(figure) == []
        of_the_width(figure, width, tmp_path)


def of_the_width(figure, width, folder):
    with style.settings():
        png, _ = style.save(figure, folder, "figure")
    with Image.open(png) as image:
        assert image.width == pytest.approx(200 * style.WIDTHS[width], abs=1)


def test_labels_that_lie_outside_or_upon_each_other_are_noticed():
    with style.settings():
        figure = style.figure(2.0)
        axis = figure.subplots()
        axis.text(0.5, 0.5, "first", transform=axis.transAxes)
        axis.text(0.51, 0.5, "second", transform=axis.transAxes)
        figure.text(0.9, 0.9, "far beyond the edge of it all")
    found = layout.complaints(figure)
    assert any("'first' overlaps 'second'" in one for one in found)
    assert any("'far beyond the edge of it all' lies outside" in one for one in found)
