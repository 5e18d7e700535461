"""What the report says of the data, from records that hold reports made by the real code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_run import MakeConfig
from synthetic import write_run
from tiny import tiny_tokenizer

from analysis import data_report, page, paper_report
from analysis.registry import NoDataError
from kto_bench.feedback.report import data_report as describe
from kto_bench.feedback.report import summary
from kto_bench.feedback.tokenising import tokenise_file
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, Demonstration, FeedbackKind, Paired, Row, write_rows
from kto_bench.losses.class_weights import ratio_warnings
from kto_bench.losses.prospect import Prospect
from kto_bench.results import Sweep
from kto_bench.run import describe as plan
from kto_bench.store import Store


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


ROWS: list[Row] = [
    *(Binary(f"a{i}", user(f"w{i % 4}"), "w1 w2 " * (i + 1), True, "first") for i in range(6)),
    *(Binary(f"b{i}", user("w9 " * (i + 1)), "w3", i == 0, "second") for i in range(3)),
]


def described(folder: Path, rows: list[Row], kind: FeedbackKind) -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    encoder = Encoder(tiny_tokenizer(), 6, 8)
    tokenise_file(folder / "rows.jsonl", kind, encoder, folder, lambda done, total: None)
    return json.loads(json.dumps(describe(folder, encoder)))


@pytest.fixture
def report(tmp_path: Path) -> dict[str, object]:
    return described(tmp_path / "tokens", ROWS, "binary")


def test_counts_by_class_and_source_and_cuts(report: dict) -> None:
    good, bad = report["classes"]["desirable"], report["classes"]["undesirable"]
    assert (good["n"], good["sources"]) == (7, {"first": 6, "second": 1})
    assert (bad["n"], bad["sources"]) == (2, {"second": 2})
    # Completions of 2, 4, ... 12 words and of one, each with its end token; 8 fit.
    assert good["lengths"] == {"mean": pytest.approx((3 + 5 + 7 + 9 + 11 + 13 + 2) / 7, abs=0.01), "median": 7.0,
                               "p95": 13.0, "max": 13}  # fmt: skip
    assert (good["truncated"], bad["truncated"]) == (3, 0)
    # BOS, <user>, the words and <assistant>: 4 tokens for one word; "w9" three times makes 6, which is all that fits.
    assert report["prompts"]["n"] == 7
    assert report["prompts"]["lengths"]["max"] == 6
    assert report["prompts"]["truncated"] == 0
    for part in (good, bad, report["prompts"]):
        assert sum(part["histogram"]["counts"]) == part["n"]
    assert good["histogram"]["edges"] == bad["histogram"]["edges"]


def test_the_weights_bring_the_ratio_into_the_advised_range(report: dict) -> None:
    weights = report["weights"]
    assert weights["ratio"] == 3.5
    assert weights["weight"] == "undesirable_weight"
    for value in (weights["low"], weights["high"]):
        assert ratio_warnings(Prospect.advised_ratio, (1.0, value), (7, 2)) == []
    assert ratio_warnings(Prospect.advised_ratio, (1.0, weights["low"] * 0.99), (7, 2))
    assert "undesirable_weight between 2.334 and 3.5" in weights["advice"]


def test_balanced_classes_and_demonstrations_need_no_weights(tmp_path: Path) -> None:
    pairs = [Paired(f"p{i}", user(f"w{i}"), "w1", "w2") for i in range(3)]
    assert "1 and undesirable_weight 1 suit" in described(tmp_path / "p", pairs, "paired")["weights"]["advice"]
    shown = described(tmp_path / "d", [Demonstration("d", user("w1"), "w2")], "demonstrations")
    assert shown["weights"] is None
    assert list(shown["classes"]) == ["demonstrated"]
    assert [example["class"] for example in shown["examples"]] == ["demonstrated"]


def test_examples_are_the_ids_with_the_mask_between_prompt_and_completion(report: dict) -> None:
    examples = report["examples"]
    assert [example["class"] for example in examples[:2]] == ["desirable", "undesirable"]
    assert len({example["row"] for example in examples}) == len(examples) == 3
    assert any(example["cut"] for example in examples)
    rows = {row.id: row for row in ROWS}
    for example in examples:
        row = rows[example["row"]]
        assert example["prompt"].split() == ["<s>", "<user>", *row.prompt[0]["content"].split(), "<assistant>"]
        words = [*row.completion.split(), "</s>"]
        assert example["completion"].split() == words[:8]
        assert example["cut"] == (len(words) > 8)


def test_examples_have_the_control_token_that_the_loss_sees(make: MakeConfig) -> None:
    """Prompts are kept as generation asks them, after the good token; an undesirable completion is trained after the
    other one."""
    config = make("loss=csft")
    tokens = Store(config.run.artifacts).fetch(plan(config)[0].stages["tokens"]).folder
    examples = json.loads((tokens / "report.json").read_text())["examples"]
    after = {example["class"]: example["prompt"].rsplit("<assistant>")[-1].strip() for example in examples}
    assert after == {"desirable": "<|good|>", "undesirable": "<|bad|>"}


def test_the_screen_says_it_before_training(report: dict) -> None:
    repetitions = {"duplicates": {"count": 2, "ids": [["a1", "a5"]]}, "contradictions": {"count": 0, "ids": []}}
    lines = summary(report, repetitions)
    assert lines[0].startswith("data: 9 completions of 7 prompts; 7 desirable (6 from first, 1 from second)")
    assert any("desirable: 7 tokens in the median" in line and "3 cut" in line for line in lines)
    assert any("2 duplicates, the first of them the rows a1 and a5" in line for line in lines)
    assert not any("contradictions" in line for line in lines)


@pytest.fixture
def sweep(tmp_path: Path, report: dict) -> Path:
    folder = tmp_path / "results" / "s"
    rows = {"dropped": {"empty prompt": 3}, "repetitions": {"duplicates": {"count": 2, "ids": [["a1", "a5"]]}}}
    for loss in ("kto", "dpo"):
        run = write_run(folder, loss, "base", 0, prompts=4)
        (run / data_report.FILE).write_text(json.dumps({"feedback": rows, "tokens": report}))
    run = write_run(folder, "kto", "base", 1, prompts=4, hash_="ffff")
    half = {**report, "completions": 4, "examples": [{**report["examples"][0], "prompt": "<script>alert(1)</script>"}]}
    (run / data_report.FILE).write_text(json.dumps({"feedback": rows, "tokens": half}))
    (write_run(folder, "simpo", "base", 0, prompts=4) / data_report.FILE).unlink()  # as before there were reports
    return folder


def test_the_table_has_a_row_per_data_class_and_source(sweep: Path) -> None:
    table = data_report.make(Sweep.load("s", sweep.parent)).numbers
    assert table.groupby("data", sort=False)["runs"].first().tolist() == [2, 1]
    first = table[table["data"] == table["data"].iloc[0]]
    assert list(zip(first["class"], first["source"], first["n"], strict=True)) == [
        ("desirable", "first", 6),
        ("desirable", "second", 1),
        ("undesirable", "second", 2),
    ]
    assert set(table["dropped"]) == {"3 × empty prompt"}
    assert set(table["duplicates"]) == {2}
    assert table["contradictions"].eq(0).all()


def test_the_figure_shows_shares_of_each_class(sweep: Path) -> None:
    drawing = data_report.draw(Sweep.load("s", sweep.parent))
    axes = drawing.figure.axes
    assert len(axes) == 4
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["desirable (n = 7)", "undesirable (n = 2)"]
    for stairs in axes[0].patches:
        values, edges, _ = stairs.get_data()
        assert (values * np.diff(np.log(edges))).sum() == pytest.approx(1)


def test_the_page_shows_the_mask_and_escapes_the_data(sweep: Path) -> None:
    nothing = {"shared": [], "columns": [], "runs": []}
    written = page.templates().get_template("report.html.jinja").render(
        sweep="s", paper=paper_report.Parts("s", "", "", [], [], [], []), findings=[],
        figures=[], tables=[], samples=[], problems=[], configuration=nothing,
        environment=nothing, data=data_report.examples(Sweep.load("s", sweep.parent)),
    )  # fmt: skip
    assert written.count("<mark>") == 1 + 3 + 1
    assert "&lt;s&gt; &lt;user&gt;" in written
    assert "&lt;/s&gt;</mark>" in written
    assert written.count("<script>") == 1  # the page's own


def test_without_reports_there_is_a_reason(tmp_path: Path) -> None:
    (write_run(tmp_path / "s", "kto", "base", 0, prompts=4) / data_report.FILE).unlink()
    with pytest.raises(NoDataError, match="no run has come as far as its tokens"):
        data_report.make(Sweep.load("s", tmp_path))
    assert data_report.examples(Sweep.load("s", tmp_path)) == []
