"""The report as a user meets it: through the command line, as one page that needs nothing else and runs nothing."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
import synthetic

from analysis.latex import escape
from analysis.registry import discover
from analysis.report import main
from analysis.samples import samples


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for key, value in attributes if key == "id"]
        self.links += [value for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert main(["planted", "--results", str(results), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def page(report):
    page = Page()
    page.feed((report / "index.html").read_text(encoding="utf-8"))
    return page


def test_every_figure_and_table_is_a_file(report):
    names = {path.name for folder in ("figures", "tables") for path in (report / folder).iterdir()}
    widths, endings = ("", "-column"), ("png", "pdf", "tex")
    expected = {f"{name}{width}.{ending}" for name in discover("FIGURE") for width in widths for ending in endings}
    assert names == expected | {f"{name}.{ending}" for name in discover("TABLE") for ending in ("csv", "tex")}


def test_the_page_is_self_contained_and_small(report, page):
    assert (report / "index.html").stat().st_size < 5_000_000
    assert all(link.startswith(("data:", "#")) for link in page.links)
    css = (report / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import", css)
    assert sum(tag == "img" for tag, _ in page.tags) == len(discover("FIGURE"))


def html(report):
    return (report / "index.html").read_text(encoding="utf-8")


def test_model_output_is_inert(page, report):
    assert synthetic.SCRIPT in page.text  # shown as it was written
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy
    scripts = re.findall(r"<script>(.*?)</script>", html(report), re.DOTALL)
    assert sum(tag == "script" for tag, _ in page.tags) == len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_page_can_be_used_by_keyboard_and_screen_reader(page):
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    scrolling = [a for _, a in page.tags if a.get("class") in ("scroll", "pan")]
    assert scrolling
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolling)
    assert any(a.get("name") == "viewport" for _, a in page.tags)


def test_failed_and_skipped_runs_are_shown_with_their_reasons(page):
    assert "RuntimeError: loss is NaN at step 7 <b>" in page.text
    assert "the feedback has no pairs, and DPO needs pairs" in page.text


def test_warnings_are_shown_with_the_name_of_their_run(page, report):
    rows = pd.read_csv(report / "tables" / "warnings_table.csv")
    assert list(rows["warning"]) == list(synthetic.WARNINGS)
    assert set(rows["run"]) == {"kto-sft-sandbox_small-s1-1a2b3c4d"}
    for warning in synthetic.WARNINGS:
        assert warning in page.text  # as it was written, so escaped
    assert not any(tag == "b" for tag, _ in page.tags)
    assert page.text.count("kto-sft-sandbox_small-s1-1a2b3c4d") >= 3  # two warnings, and the table of runs
    assert "1 run came with warnings about data or training" in page.text


def test_configuration_shows_what_is_shared_and_what_differs(page):
    assert "What differs between runs" in page.text
    assert "packages.torch" in page.text
    assert "train.steps" in page.text


def test_numbers_in_files_are_those_of_the_records(report, sweep):
    numbers = pd.read_csv(report / "tables" / "summary_table.csv")
    row = numbers[(numbers["start"] == "sft") & (numbers["method"] == "kto")].iloc[0]
    expected = sweep.outcomes.query("start == 'sft' and loss == 'kto'")["preference"].mean()
    assert row["win_rate"] == pytest.approx(expected)


def test_latex_is_booktabs_and_escaped(report):
    text = (report / "tables" / "summary_table.tex").read_text(encoding="utf-8")
    assert text.startswith("% needs \\usepackage{booktabs}")
    lines = text.splitlines()
    rules = [lines.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == sorted(rules)
    assert rules[2] - rules[1] - 1 == len(pd.read_csv(report / "tables" / "summary_table.csv"))
    cells = {line.count(" & ") for line in lines if line.endswith(r" \\")}
    assert len(cells) == 1
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text).group(1)
    assert columns.startswith("llrrrr")
    assert len(columns) == cells.pop() + 1
    assert r"\caption{By start and loss: means with 95\% intervals." in text
    assert r"\label{tab:summary_table}" in text
    for name in ("table*", "tabular", "adjustbox"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") == 1
    assert r"sandbox\_facts" in text
    assert text.isascii()
    assert escape(r"50% & a_b \ {x} −1 <2") == r"50\% \& a\_b \textbackslash{} \{x\} $-$1 $<$2"


def test_rebuilding_gives_the_same_bytes(report, results, tmp_path):
    assert main(["planted", "--results", str(results), "--out", str(tmp_path)]) == 0
    for path in sorted(report.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(report)).read_bytes(), path.name


def test_samples_show_the_same_prompts_for_every_cell(sweep):
    shown = samples(sweep)
    assert len(shown) == 24
    for sample in shown:
        assert [answer.name for answer in sample.answers][:2] == ["none (start only) from base", "SFT from base"]
        assert len(sample.answers) == 10
        assert {answer.verdict for answer in sample.answers} <= {"win", "tie", "loss"}
        assert all("utility" in answer.notes and "seed 0" in answer.notes for answer in sample.answers)


def test_an_unknown_sweep_fails_with_what_exists(results, tmp_path, capsys):
    assert main(["nonsense", "--results", str(results), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "nonsense" in error
    assert "planted" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_sweep_without_finished_runs_still_gives_a_report(tmp_path, capsys):
    synthetic.write_run(tmp_path / "results" / "s", "dpo", "sft", 0, state="failed")
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    (out / "figures" / "win_rate.png").write_text("of an earlier report")
    (out / "figures" / "mine.png").write_text("the user's own")
    assert main(["s", "--results", str(tmp_path / "results"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "skipped: no finished run has head-to-head judgements" in printed
    assert printed.rstrip().endswith(str(out / "index.html"))
    html = (out / "index.html").read_text(encoding="utf-8")
    assert "Not drawn: no finished run has benchmark results." in html
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        "mine.png",
        *(f"training{width}.{kind}" for width in ("-column", "") for kind in ("pdf", "png", "tex")),
    ]


def test_help_and_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "reports/NAME" in printed
    assert "kto-bench-report halo" in printed
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


def test_halo_is_no_sweep(results, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--results", str(results), "halo"])
    assert stop.value.code == 2
    assert "'halo' is the report of the losses and no sweep" in capsys.readouterr().err
