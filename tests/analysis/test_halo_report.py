"""The halo report as a user meets it: all losses, some of them, one of the user's own, and refusals."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import halo_losses
import numpy as np
import pandas as pd
import pytest
from places import ROOT
from test_figures import texts
from test_report import Page

from analysis import style
from analysis.halo import figures, tables
from analysis.halo.catalogue import Subject, catalogue, subjects
from analysis.halo.report import build
from analysis.halo.sentences import findings
from analysis.halo.study import studies
from analysis.registry import NoDataError
from analysis.report import main
from kto_bench.component import ConfigError
from kto_bench.losses.dpo import DPO
from kto_bench.losses.kto import KTO
from kto_bench.losses.sft import SFT
from kto_bench.losses.simpo import SimPO

LOSSES = [ROOT / "conf" / "loss"]
DRAWN = [f"{name}{width}" for name in ("main_losses", "value_functions", "slopes") for width in ("", "-column")]
FILES = {
    f"{folder}/{name}.{ending}"
    for folder, names, endings in (
        ("figures", DRAWN, ("png", "pdf", "tex")),
        ("tables", ("halo_verdicts", "counter_examples", "value_functions"), ("csv", "tex")),
    )
    for name in names
    for ending in endings
}


def silent(message: str) -> None:
    pass


FOUR = (("sft", SFT()), ("dpo", DPO()), ("kto", KTO()), ("simpo", SimPO()))


def studied(*losses):
    return studies([Subject(name, loss, Path(f"{name}.yaml")) for name, loss in losses or FOUR], silent)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("halo")
    assert main(["halo", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def page(report):
    page = Page()
    page.feed((report / "index.html").read_text(encoding="utf-8"))
    return page


def test_every_loss_of_conf_is_in_the_figures_and_tables(report, page):
    assert {str(path.relative_to(report)) for path in report.glob("*/*")} == FILES
    names = [path.stem for path in LOSSES[0].glob("*.yaml") if path.stem != "none"]
    verdicts = pd.read_csv(report / "tables" / "halo_verdicts.csv")
    assert set(verdicts["loss"]) == {*names, "ppo kl_weight=0"}
    assert set(pd.read_csv(report / "tables" / "value_functions.csv")["loss"]) == {
        *verdicts["loss"],
        "Kahneman-Tversky",
    }
    assert all(style.loss_name(name) in page.text for name in names)


def test_the_page_needs_nothing_else_and_runs_nothing(report, page):
    html = (report / "index.html").read_text(encoding="utf-8")
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not re.search(r"url\(|@import", html)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # ours: test_browser.py runs it
    assert "default-src 'none'" in html
    assert len(html) < 3_000_000
    assert sum(tag == "img" for tag, _ in page.tags) == 3
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_the_page_says_which_definition_and_what_it_cannot_tell(page):
    assert "Definition 3.4 of arXiv 2402.01306, versions 2 to 4" in page.text
    assert "The sign a is free" in page.text
    assert "PPO-Clip" in page.text


def test_tables_for_latex_are_ascii(report):
    for path in report.glob("tables/*.tex"):
        assert path.read_text(encoding="utf-8").isascii(), path.name


def test_rebuilding_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert main(["halo", "--loss", "sft", "dpo", "--out", str(tmp_path / name)]) == 0
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


MINE = """
from typing import ClassVar
import torch
from kto_bench.losses import Loss, Output

class Mine(Loss):
    feedback: ClassVar = "paired"
    needs_reference: ClassVar = True
    width: float = 1.0

    def __call__(self, chosen, rejected):
        return Output(torch.relu(self.width - (chosen.log_ratio - rejected.log_ratio)))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's folder with a loss of their own: one file and one YAML."""
    (tmp_path / "my_module_of_losses.py").write_text(MINE)
    (tmp_path / "loss").mkdir()
    yaml = "# @package _global_\nloss: {name: mine, _target_: my_module_of_losses.Mine, width: 1}\n"
    (tmp_path / "loss" / "mine.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_loss_of_the_users_own_is_drawn_without_an_edit(own):
    """max(0, 1 - m) with m in nats: slope 1 up to 1, then nothing; a HALO as DPO is."""
    assert main(["halo", "--config-dir", str(own), "--loss", "mine", "mine.width=2", "dpo"]) == 0
    verdicts = pd.read_csv("reports/halo/tables/halo_verdicts.csv", index_col="loss")
    assert list(verdicts.index) == ["mine", "mine width=2", "dpo"]
    assert verdicts.loc["mine", ["halo", "reference_point"]].tolist() == [True, "the other completion"]
    numbers = pd.read_csv("reports/halo/tables/value_functions.csv").query("`class` == 'chosen'").set_index("loss")
    assert numbers.loc["mine", ["slope_gain", "vanishing"]].tolist() == [1, "[1.00, 10.00]"]
    assert numbers.loc["mine width=2", "vanishing"] == "[2.00, 10.00]"
    found = studies(catalogue([*LOSSES, own / "loss"]), silent)
    assert "mine" in texts(figures.apart(found).figure)
    assert "mine" in texts(figures.slopes(found).figure)
    assert "mine" in texts(figures.together(found[-1:], named=True).figure)


def test_figures_draw_what_the_loss_computes():
    """DPO in units of its slope at 0, one half: 2 log(2 s(x)) for the chosen completion, in DPO's colour."""
    (study,) = studied(("dpo", DPO()))
    (axis,) = figures.apart([study]).figure.axes
    colours = {line.get_color(): line for line in axis.get_lines()}
    drawn = colours[style.colour("dpo")]
    x = drawn.get_xdata()
    np.testing.assert_allclose(drawn.get_ydata(), 2 * np.log(2 / (1 + np.exp(-x))), rtol=1e-5, atol=1e-7)
    human = colours[figures.HUMAN]
    gains = human.get_xdata() > 0
    np.testing.assert_allclose(human.get_ydata()[gains], human.get_xdata()[gains] ** 0.88)
    np.testing.assert_allclose(human.get_ydata()[~gains], -2.25 * (-human.get_xdata()[~gains]) ** 0.88)
    assert axis.get_xlim() == (-4, 4)


def test_all_losses_fit_their_panels():
    """No title reaches into the panel beside it, and every panel is within the page."""
    found = studies(catalogue(LOSSES), silent)
    for drawing in (figures.apart(found), figures.slopes(found)):
        drawing.figure.draw_without_rendering()
        visible = [axis for axis in drawing.figure.axes if axis.get_visible()]
        assert len(visible) == len(found)
        boxes = [axis.get_tightbbox() for axis in visible]
        assert all(box.x1 <= drawing.figure.bbox.x1 + 1 and box.x0 >= -1 for box in boxes)
        for left, right in pairwise(visible):
            if left.get_subplotspec().rowspan.start == right.get_subplotspec().rowspan.start:
                titles = [axis._left_title.get_window_extent() for axis in (left, right)]
                assert titles[0].x1 < titles[1].x0, left._left_title.get_text()


def test_panels_say_that_a_part_is_held_constant_and_in_which_unit():
    (study,) = studied(("mine", halo_losses.HeldConstant()))
    drawing = figures.apart([study])
    assert "mine: a part of the loss is held constant" in drawing.caption
    assert "nats" in texts(drawing.figure)
    assert "held constant" not in figures.apart(studied()).caption


def test_sentences_name_what_was_found():
    sentences = [sentence for finding in findings(studied()) for sentence in finding.sentences]
    assert "HALOs: DPO, KTO." in sentences
    assert "No HALO, by clause (1) constant in the policy where policy = reference: SFT, SimPO." in sentences
    assert any(
        "KTO: desirable completions below −4.36 (hard or mislabelled) and above +4.36 (learned)" in s for s in sentences
    )
    assert any("Loss aversion that appears away from it, at 1: DPO 2.72, SimPO 1.76." in s for s in sentences)
    assert not any("Not in the direction" in sentence for sentence in sentences)


def test_a_loss_that_goes_the_wrong_way_is_named():
    found = studied(("dpo", DPO()), ("backwards", halo_losses.FlippedKTO()), ("alike", halo_losses.Square()))
    sentences = [sentence for finding in findings(found) for sentence in finding.sentences]
    assert "Not in the direction of the feedback: backwards (lowers desirable, raises undesirable)." in sentences


def test_tables_have_the_same_rows_for_machines_and_people():
    for sheet in (tables.value_functions(studied()), tables.verdicts(studied()), tables.counter_examples(studied())):
        assert len(sheet.numbers) == len(sheet.display) > 0
        assert not sheet.display.isna().any().any()
    with pytest.raises(NoDataError, match="every loss is a HALO"):
        tables.counter_examples(studied(("dpo", DPO())))


def test_names_are_inert(tmp_path):
    name = '<script>alert("inert?")</script>'
    path = build([Subject(name, DPO(), Path("x.yaml"))], tmp_path)
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1, "the page's own"
    assert name in page.text


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("kot", "'kot' is no loss; losses: .*dpo.*; did you mean 'kto'?"),
        ("none", "'none' is no loss"),
        ("kto.beta", "'beta' is no FIELD=VALUE, as in --loss kto.beta=0.5"),
        ("kto.bata=1", r"kto.yaml: loss.bata: unknown field \(value 1\); allowed: .*did you mean 'beta'"),
        ("kto.beta=-1", "kto.yaml: loss.beta: -1 is not allowed"),
    ],
)
def test_choices_that_are_refused(wanted, complaint, tmp_path, capsys):
    assert main(["halo", "--loss", wanted, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(complaint, error)
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("loss: {_target_: no.such.Module}", "cannot import 'no.such.Module'"),
        ("loss: [", "cannot be read as YAML"),
        ("model: {}", "expected a mapping `loss` with `_target_: module.Class`, got None"),
        ("loss: {_target_: halo_losses.Broken}", "Broken cannot be evaluated on made-up completions: KeyError"),
    ],
)
def test_a_loss_that_cannot_be_built_or_evaluated_is_named_by_its_file(text, complaint, tmp_path, capsys):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "half_written.yaml").write_text(text)
    assert main(["halo", "--config-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "half_written.yaml" in error
    assert complaint in error


def test_fields_can_be_changed():
    first, second = subjects(LOSSES, ["kto.beta=0.5,desirable_weight=2", "kto"])
    assert (first.name, first.title) == ("kto beta=0.5 desirable_weight=2", "KTO beta=0.5 desirable_weight=2")
    assert first.loss == KTO(beta=0.5, desirable_weight=2)
    assert second.loss == KTO()
    with pytest.raises(ConfigError, match=r"kto\.yaml"):
        subjects(LOSSES, ["kto.beta=x"])


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["halo", "--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "NAME.FIELD=VALUE" in printed
    assert "kto-bench-report halo --loss dpo kto kto.beta=0.5" in printed
