from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time

import pytest

from kto_bench.feedback.importers import feedbackqa, gsm8k_solutions, hh_rlhf
from kto_bench.feedback.importers.__main__ import find_importers, import_set, main
from kto_bench.feedback.importers.report import Report
from kto_bench.feedback.jsonl import JsonlFeedback
from kto_bench.feedback.types import Binary, FeedbackError, Paired


def turns(*texts):
    return "".join(f"\n\n{'Human' if n % 2 == 0 else 'Assistant'}: {text}" for n, text in enumerate(texts))


def answer(question, text, *ratings):
    return {"question": question, "passage": {"reference": {"section_content": text}}, "rating": list(ratings)}


def test_hh_rlhf(write):
    path = write(
        {"chosen": turns("Hi", "Yes?", "Why?", "So."), "rejected": turns("Hi", "Yes?", "Why?", "No. ")},
        {"chosen": turns("Hi", "a"), "rejected": turns("Hi", "a")},
        {"chosen": turns("Hi", "a"), "rejected": turns("Ho", "b")},
        {"chosen": turns("Hi", "a"), "rejected": turns("Hi", "")},
        {"chosen": turns("Hi", "a", "More"), "rejected": turns("Hi", "b")},
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: b",
            "rejected": "\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: c",
        },
    )
    report = Report()
    target = path.with_name("target.jsonl")
    assert import_set(hh_rlhf.convert, path, target) == (1, Report(6, *_counted(path)))
    prompt = (
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    )
    assert JsonlFeedback(path=target).load().rows == [Paired("rows:1", prompt, "So.", "No.")]
    assert list(hh_rlhf.convert(path, report))
    assert report.lines()[0] == f"left out 1: chosen equals rejected (first: {path}:2)"


def _counted(path):
    reasons = [
        "chosen equals rejected",
        "the dialogues differ before the last turn",
        "empty completion",
        "the dialogue goes on after the last Assistant turn",
        "Human and Assistant do not alternate",
    ]
    return dict.fromkeys(reasons, 1), {reason: f"{path}:{line}" for line, reason in enumerate(reasons, start=2)}


def test_gsm8k_solutions(write):
    marks = {
        model: {"is_correct": model.startswith("175b"), "solution": f"by {model}"} for model in gsm8k_solutions.MODELS
    }
    marks["6b_verification"]["solution"] = ""
    path = write({"question": "1 + 1?", "ground_truth": "2", **marks}, name="s.jsonl")
    count, report = import_set(gsm8k_solutions.convert, path, path.with_name("target.jsonl"))
    rows = JsonlFeedback(path=path.with_name("target.jsonl")).load().rows
    assert (count, report.read, report.dropped) == (3, 4, {"empty completion": 1})
    prompt = ({"role": "user", "content": "1 + 1?"},)
    assert rows[0] == Binary("s:1/6b_finetuning", prompt, "by 6b_finetuning", False)
    assert rows[1] == Binary("s:1/175b_finetuning", prompt, "by 175b_finetuning", True)


def test_feedbackqa(tmp_path):
    values = [
        answer("q", "a", "Excellent", "Acceptable"),
        answer("q", "b", "Bad", "Could be Improved", "Excellent"),
        answer("q", "c", "Acceptable", "Could be Improved"),
        answer("q", "a", "Bad", "Bad"),
        answer("q", " ", "Bad", "Bad"),
    ]
    path = tmp_path / "WHO.feedback_test.json.gz"
    path.write_bytes(gzip.compress(json.dumps(values).encode()))
    _, report = import_set(feedbackqa.convert, tmp_path, tmp_path / "target.jsonl")
    prompt = ({"role": "user", "content": "q"},)
    assert JsonlFeedback(path=tmp_path / "target.jsonl").load().rows == [
        Binary("WHO.feedback_test:1", prompt, "a", True),
        Binary("WHO.feedback_test:2", prompt, "b", False),
    ]
    assert report.dropped == {
        "as many ratings for the answer as against it": 1,
        "the question has had this answer already": 1,
        "empty question or answer": 1,
    }


@pytest.mark.parametrize("name", ["hh-rlhf", "gsm8k-solutions", "feedbackqa"])
def test_another_set_is_refused_and_leaves_nothing(write, capsys, name):
    path = write({"prompt": "a"}, name="rows.json" if name == "feedbackqa" else "rows.jsonl")
    target = path.parent / "target.jsonl"
    assert main([name, str(path), str(target)]) == 1
    assert "rows.json" in capsys.readouterr().err
    assert list(path.parent.iterdir()) == [path]


def test_unknown_rating_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([answer("q", "a", "Great")]))
    with pytest.raises(FeedbackError, match="unknown rating 'Great'; known: Excellent"):
        list(feedbackqa.convert(tmp_path, Report()))


def test_no_source_damaged_source_and_taken_target(tmp_path, capsys):
    assert main(["hh-rlhf", str(tmp_path), str(tmp_path / "t")]) == 1
    assert "expected a file, or a folder with files named *.jsonl" in capsys.readouterr().err
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    assert main(["hh-rlhf", str(tmp_path), str(tmp_path / "t")]) == 1
    assert "a.jsonl.gz: cannot be read" in capsys.readouterr().err
    assert main(["hh-rlhf", str(tmp_path), str(tmp_path / "a.jsonl.gz")]) == 1
    assert "it exists already" in capsys.readouterr().err


def test_command_names_every_set():
    command = [sys.executable, "-m", "kto_bench.feedback.importers", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert sorted(find_importers()) == ["feedbackqa", "gsm8k-solutions", "hh-rlhf"]
    assert all(name in text for name in find_importers())


WHOLE_SETS = [
    (
        "hh-rlhf",
        "paired",
        (8552, 8476),
        {
            "chosen equals rejected": 36,
            "the dialogues differ before the last turn": 17,
            "empty completion": 11,
            "Human and Assistant do not alternate": 10,
            "the dialogue goes on after the last Assistant turn": 2,
        },
        None,
    ),
    ("gsm8k-solutions", "binary", (5276, 5276), {}, 2001),
    (
        "feedbackqa",
        "binary",
        (3924, 3419),
        {"as many ratings for the answer as against it": 504, "the question has had this answer already": 1},
        1657,
    ),
]


@pytest.mark.parametrize(("name", "kind", "counts", "dropped", "desirable"), WHOLE_SETS)
def test_whole_published_sets(shared, tmp_path, name, kind, counts, dropped, desirable):
    source, target = shared(f"feedback/{name}"), tmp_path / "target.jsonl"
    started = time.perf_counter()
    written, report = import_set(find_importers()[name].convert, source, target)
    feedback = JsonlFeedback(path=target).load()
    assert time.perf_counter() - started < 10
    assert (report.read, written) == counts
    assert report.dropped == dropped
    assert (feedback.kind, len(feedback), feedback.dropped) == (kind, written, {})
    if desirable is not None:
        assert sum(row.label for row in feedback.rows) == desirable
