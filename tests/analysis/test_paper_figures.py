"""Figures and tables of papers: from published numbers, from own records, and from both, through one piece of code."""

import browser
import pandas as pd
import paper_sweeps
import pytest
from paper_sweeps import FROM_OWN, OF_STUDIES
from places import ROOT
from test_figures import texts
from test_report import Page

from analysis import by_scale, imbalance, one_completion, simpo_scores, style, ultrafeedback
from analysis.evidence import OWN, PUBLISHED, Evidence
from analysis.registry import Drawing, NoDataError, discover
from analysis.report import main
from analysis.sft_skip_by_scale import costs
from kto_bench.published import Published
from kto_bench.results import Sweep

FIGURES, TABLES = discover("PAPER_FIGURE"), discover("PAPER_TABLE")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    paper_sweeps.write_all(folder)
    paper_sweeps.scale(folder, "kto_scale", ("pythia_1_4b", "llama_7b", "sandbox_tiny"), seeds=1)
    (folder / "published").symlink_to(ROOT / "results" / "published")
    return folder


@pytest.fixture(scope="module")
def evidence(own):
    """By names of sweep and study, each of which is read once."""
    sweeps, studies, made = {None: None}, {None: None}, {}

    def get(sweep=None, study=None):
        if sweep not in sweeps:
            sweeps[sweep] = Sweep.load(sweep, own)
        if study not in studies:
            studies[study] = Published.load(study, own)
        if (sweep, study) not in made:
            made[sweep, study] = Evidence(sweeps[sweep], studies[study])
        return made[sweep, study]

    return get


def faces(figure):
    """Marker faces and edges of all points that are drawn, without legends."""
    lines = [line for axis in figure.axes for line in axis.get_lines() if line.get_marker() not in ("None", "", None)]
    return {"hollow" if line.get_markerfacecolor() == "white" else "filled" for line in lines}


def test_modules_are_discovered_in_the_order_of_the_report():
    assert list(FIGURES) == [
        "implied_values", "win_rate_by_scale", "sft_skip_by_scale", "length_by_scale", "imbalance", "one_completion",
        "ultrafeedback", "temperature", "simpo_scores", "weightings",
    ]  # fmt: skip
    assert list(TABLES) == ["claims", "ultrafeedback", "simpo_scores", "judged_runs", "other_scores"]
    assert not set(FIGURES) & set(discover("FIGURE"))


@pytest.mark.parametrize("name", OF_STUDIES)
def test_published_points_are_hollow(name, evidence):
    drawing = FIGURES[name].make(evidence(None, OF_STUDIES[name]))
    assert isinstance(drawing, Drawing)
    assert faces(drawing.figure) == {"hollow"}
    assert "n = " in drawing.caption
    assert "judge GPT-4" in drawing.caption
    assert ("the spread of means is unknown" if name == "length_by_scale" else "Wilson") in drawing.caption


@pytest.mark.parametrize("name", FROM_OWN)
def test_own_points_are_filled(name, evidence):
    drawing = FIGURES[name].make(evidence(FROM_OWN[name]))
    assert "hollow" not in faces(drawing.figure)
    assert "n = 24 prompts" in drawing.caption
    assert "judge gold_utility" in drawing.caption


@pytest.mark.parametrize("name", OF_STUDIES)
def test_both_are_drawn_together_and_apart_in_looks(name, evidence):
    drawing = FIGURES[name].make(evidence(FROM_OWN[name], OF_STUDIES[name]))
    assert faces(drawing.figure) == {"hollow", "filled"}
    legend = " ".join(texts(drawing.figure))
    assert "own runs, gold_utility, n=24" in legend
    assert "published, GPT-4" in legend


@pytest.mark.parametrize("name", [*FIGURES, *TABLES])
def test_a_sweep_about_something_else_has_none_of_them(name, sweep):
    with pytest.raises(NoDataError):
        ({**TABLES, **FIGURES})[name].make(Evidence(sweep))


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_same_rows_for_machines_and_people(name, evidence):
    sheet = TABLES[name].make(evidence(None, "simpo_paper" if name == "simpo_scores" else "kto_paper"))
    assert len(sheet.numbers) == len(sheet.display) > 0
    assert not sheet.display.isna().any().any()
    assert "n = " in sheet.caption or "n: " in sheet.caption or "of 512" in " ".join(sheet.display["Wins"])


def test_evidence_needs_something():
    with pytest.raises(ValueError, match="a sweep, a published study, or both"):
        Evidence()


def test_own_win_rates_lengths_and_sizes_are_those_of_the_records(evidence):
    found = evidence("kto_scale-own")
    row = found.own.set_index(["model", "start", "loss"]).loc["sandbox_medium", "base", "kto"]
    outcomes = found.sweep.outcomes.query("model == 'sandbox_medium' and start == 'base' and loss == 'kto'")
    assert row["value"] == pytest.approx(outcomes["preference"].mean())
    assert row["mean_tokens"] == pytest.approx(outcomes["tokens"].mean())
    assert (row["parameters"], row["n"], row["seeds"]) == (600_000, 24, 2)


def test_own_models_stand_beside_a_papers_only_where_they_are_the_same(evidence):
    found = by_scale.groups(by_scale.several_sizes(evidence("kto_scale", "kto_paper")))
    assert [group.title for group in found] == ["Pythia", "Llama", "kto_scale"]
    pythia, llama, other = found
    assert (pythia.ticks, llama.ticks) == (["1.4B", "2.8B", "6.9B", "12B"], ["7B", "13B", "30B"])
    assert other.ticks == ["sandbox_\ntiny\n0.05M"]
    mine = pythia.rows[pythia.rows["origin"] == OWN]
    assert set(mine["model"]) == {"pythia_1_4b"}
    assert set(mine["place"]) == {0}
    assert set(other.rows["origin"]) == {OWN}


def test_amounts_of_pretraining_are_apart_and_in_order(evidence):
    found = by_scale.groups(by_scale.several_sizes(evidence("sft_skip-own")))
    assert [group.title.split("\n")[1] for group in found] == ["tokens=500000", "tokens=4000000"]


def test_a_record_without_the_size_of_its_model_is_drawn_by_name(evidence):
    rows = by_scale.several_sizes(evidence("kto_scale-own")).assign(parameters=float("nan"))
    (group,) = by_scale.groups(rows)
    assert group.ticks == ["sandbox_\nmedium", "sandbox_\nsmall", "sandbox_\ntiny"]


@pytest.mark.parametrize(("parameters", "said"), [(1.4e9, "1.4B"), (30e9, "30B"), (150_000, "0.15M"), (20_000, "20K")])
def test_sizes(parameters, said):
    assert by_scale.size(parameters) == said


def test_what_skipping_sft_costs_is_by_hand(evidence):
    found = evidence(None, "kto_paper")
    table = costs(found, by_scale.several_sizes(found)).set_index(["name", "loss"])
    assert table.loc[("Llama-7B", "kto"), "value"] == pytest.approx((210 - 246) / 512)
    assert table.loc[("Pythia-1.4B", "dpo"), "value"] == pytest.approx((18 - 58) / 512)
    own = evidence("kto_scale-own")
    mine = costs(own, by_scale.several_sizes(own)).set_index(["model", "loss"])
    outcomes = (
        own.sweep.outcomes.query("model == 'sandbox_tiny' and loss == 'dpo'").groupby("start")["preference"].mean()
    )
    assert mine.loc[("sandbox_tiny", "dpo"), "value"] == pytest.approx(outcomes["base"] - outcomes["sft"])


def test_imbalance_has_the_papers_points_and_dpos_lines(evidence):
    found = evidence(None, "kto_paper")
    rows = imbalance.kept(found)
    assert len(rows) == 12  # eleven of the study and the one with all data and weights 1 : 1
    rows = rows.assign(weighting=[imbalance.weighting(row) for row in rows.to_dict("records")])
    desirable = imbalance._of(rows, "keep_desirable", "corrected").set_index("keep_desirable")["value"]
    assert desirable.sort_index().round(3).tolist() == [0.285, 0.344, 0.328, 0.398, 0.402, 0.453]
    undesirable = imbalance._of(rows, "keep_undesirable", "corrected").set_index("keep_undesirable")["value"]
    assert undesirable.sort_index().round(3).tolist() == [0.262, 0.293, 0.332, 0.344, 0.391, 0.410]
    lines = imbalance.compared_with(found, rows).set_index("start")["value"]
    assert (round(lines["base"], 3), round(lines["sft"], 3)) == (0.309, 0.428)


def test_own_imbalance_shows_both_weightings(evidence):
    figure = imbalance.draw(evidence("kto_imbalance-own")).figure
    titles = {axis.get_title(loc="left") for axis in figure.axes}
    assert titles == {
        f"{cls} completions kept\n{weights}"
        for cls in ("desirable", "undesirable")
        for weights in ("weights make up for it", "weights 1 : 1")
    }


def test_panels_of_one_completion_are_models(evidence):
    figure = one_completion.draw(evidence("one_completion-own", "kto_paper")).figure
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["sandbox_small", "Mistral-7B", "Mistral-7B-Instruct"]


def test_numbers_from_memory_are_crosses_and_marked(evidence):
    drawing = ultrafeedback.draw(evidence(None, "kto_paper"))
    crosses = [line for axis in drawing.figure.axes for line in axis.get_lines() if line.get_marker() == "x"]
    assert len(crosses) == 5
    sheet = ultrafeedback.make(evidence(None, "kto_paper"))
    row = sheet.display[sheet.display["Method"] == "KTO, risk-neutral"].iloc[0]
    assert row["MMLU, 0-shot"].startswith("57.3?")
    assert row["BBH, 3-shot"].startswith("6.1†")
    assert row["Mean"] == "33.5?"
    kto = sheet.numbers[(sheet.numbers["loss"] == "kto") & ~sheet.numbers["one_completion_per_prompt"].astype(bool)]
    assert kto["mean"].tolist() == pytest.approx([48.9, 48.325])


def test_own_grids_show_the_best_setting_of_each_loss(evidence):
    sheet = simpo_scores.make(evidence("simpo_table-own"))
    assert list(sheet.display["Method"].str.split(" beta").str[0]) == ["none (start only)", "DPO", "KTO", "SimPO"]
    rates = evidence("simpo_table-own").own.groupby("loss")["value"].max() * 100
    assert sheet.numbers.set_index("loss")["win_rate"].to_dict() == pytest.approx(rates.to_dict())


def test_the_heat_map_has_every_cell_with_its_interval(evidence):
    drawing = FIGURES["weightings"].make(evidence("weightings-own"))
    axis = drawing.figure.axes[0]
    cells = [text.get_text() for text in axis.texts]
    assert len(cells) == 9
    assert all("[" in cell for cell in cells)
    assert len(axis.patches) == 3  # 0.5 : 0.5, 1 : 1, 2 : 2
    assert "Of 8 cells" in drawing.caption


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("kto_paper")
    assert main(["kto_paper", "--results", str(ROOT / "results"), "--out", str(out)]) == 0
    return out


def test_the_papers_report_is_whole(report):
    names = {path.name for folder in ("figures", "tables") for path in (report / folder).iterdir()}
    figures = set(FIGURES) - {"simpo_scores", "weightings"}
    tables = set(TABLES) - {"simpo_scores"}
    assert names == {f"{n}{w}.{e}" for n in figures for w in ("", "-column") for e in ("png", "pdf", "tex")} | {
        f"{n}.{e}" for n in tables for e in ("csv", "tex")
    }
    assert all((report / "tables" / f"{name}.tex").read_text(encoding="utf-8").isascii() for name in tables)
    assert len(pd.read_csv(report / "tables" / "judged_runs.csv")) == 104


def test_the_papers_page_states_verdicts_and_caveats(report):
    html = (report / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert len(html) < 5_000_000
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "(f) Of these, the gaps at 7B and 30B are significant." in page.text
    assert "contradicted · SFT+KTO − SFT (at most expected): Llama-7B +12.1 points" in page.text
    assert "twice the updates of DPO" in page.text
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "script-src 'sha256-" in html


@pytest.mark.skipif(
    browser.CHROMIUM is None, reason="needs Chromium on the PATH (Debian and Ubuntu: apt-get install chromium)"
)
def test_the_papers_page_sorts_and_never_scrolls_sideways(report, tmp_path):
    opened = browser.Browser(tmp_path / "profile")
    try:
        opened.open(report / "index.html", width=390)
        opened.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        rows = "Array.from(document.querySelectorAll('#table-judged_runs ~ details table')[0].tBodies[0].rows)"
        first = f"{rows}.map(row => row.cells[0].textContent)"
        before = opened.evaluate(first)
        for _ in range(2):
            opened.evaluate("document.querySelector('#table-judged_runs ~ details th button').click()")
        after = opened.evaluate(first)
        assert after != before
        assert sorted(after) == sorted(before)
        assert opened.logged == []
    finally:
        opened.close()


def test_a_sweeps_page_has_the_study_laid_over_it(own, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "WIDTHS", {"page": style.WIDTHS["page"]})  # the other one is tested above, and slow
    arguments = ["one_completion-own", "--published", "kto_paper", "--results", str(own), "--out", str(tmp_path)]
    assert main(arguments) == 0
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "figure-one_completion" in html
    assert "Which claims hold?" in html
    assert "Own runs (filled): sweep one_completion-own" in html
    assert (tmp_path / "figures" / "win_rate.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kto_scale", "--published", "nonsense"], "studies that exist there: kto_paper, simpo_paper"),
        (["nonsense"], "Published studies: kto_paper, simpo_paper."),
        (["kto_paper", "--published", "simpo_paper"], "'kto_paper' is a published study itself"),
    ],
)
def test_wrong_names_are_refused_with_what_exists(own, tmp_path, capsys, arguments, said):
    assert main([*arguments, "--results", str(own), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_name_of_both_is_refused(own, tmp_path, capsys):
    paper_sweeps.one_completion(tmp_path, "kto_paper")
    (tmp_path / "published").symlink_to(ROOT / "results" / "published")
    assert main(["kto_paper", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "is a sweep and a published study" in capsys.readouterr().err


def test_published_points_join_own_ones_of_the_same_checkpoint(own, evidence, tmp_path):
    paper_sweeps.one_completion(tmp_path, "mine", model="mistral_7b")
    rows = Evidence(Sweep.load("mine", tmp_path), Published.load("kto_paper", own))
    figure = one_completion.draw(rows).figure
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_visible()]
    assert titles == ["Mistral-7B", "Mistral-7B-Instruct"]
    assert set(rows.judged("one_completion_per_prompt")["origin"]) == {OWN, PUBLISHED}
