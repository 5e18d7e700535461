"""Feedback that the evaluation asks about is found, counted and left out, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from small_run import MakeConfig

from kto_bench.component import ConfigError
from kto_bench.config import EvaluationConfig
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.generation.prompts import EvaluationPrompt, PromptSource
from kto_bench.evaluation_texts import EvaluationTexts, evaluation_texts
from kto_bench.feedback.decontamination import Overlaps, decontaminated
from kto_bench.feedback.sources.gsm8k_solutions import GSM8KSolutions
from kto_bench.feedback.sources.hh_rlhf import HHRLHF
from kto_bench.feedback.types import Binary, Decontamination, Feedback, FeedbackError, Paired
from kto_bench.run import describe, execute

QUESTION = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total?"


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (QUESTION, True),
        (f"Please solve: {QUESTION.upper()} Think first.", True),
        ("a robe takes 2 bolts, of blue fiber -- and half that much!", True),
        ("a robe takes 2 bolts of blue fiber and", False),
        ("A robe takes 3 bolts of blue fiber and half of that in white fiber. How many in total?", False),
    ],
)
def test_ten_words_in_a_row(text: str, found: bool) -> None:
    assert bool(Overlaps({"gsm8k": [QUESTION]}, 10).of(text)) == found


def test_a_short_text_counts_whole_and_a_very_short_one_not_at_all() -> None:
    overlaps = Overlaps({"facts": ["What is the capital of France?", "Paris"]}, 13)
    assert overlaps.of("what is the capital of france")
    assert not overlaps.of("What is the capital of France, and of Spain?")
    assert not overlaps.of("Paris")


def test_rows_are_counted_by_set_and_left_out() -> None:
    rows = [
        Paired("a", user("x"), "nothing", QUESTION),
        Paired("b", user("x"), "nothing", "else"),
        Paired("c", (*user(QUESTION), {"role": "assistant", "content": "?"}, *user("go on")), "x", "y"),
    ]
    left, counts = decontaminated(Feedback("paired", rows), Overlaps({"gsm8k": [QUESTION, "b"], "other": ["c"]}, 13))
    assert left.rows == rows[1:2]
    assert counts == {
        "words": 13,
        "rows": 3,
        "left_out": 2,
        "by_set": {"gsm8k": 2, "other": 0},
        "texts": {"gsm8k": 2, "other": 1},
        "ids": ["a", "c"],
    }
    assert left.dropped == {"shares words with an evaluation text": 2}


def test_half_the_words_is_the_same_rule_for_any_number() -> None:
    words = [f"w{n}" for n in range(40)]
    overlaps = Overlaps({"set": [" ".join(words)]}, 8)
    for length in range(1, 12):
        row = Binary("a", user(" ".join(words[5 : 5 + length])), "x", True)
        assert (len(decontaminated(Feedback("binary", [row]), overlaps)[0]) == 0) == (length >= 8)


def test_a_run_is_decontaminated_against_files_and_says_so(make: MakeConfig, tmp_path: Path) -> None:
    evaluation = tmp_path / "questions"
    evaluation.mkdir()
    (evaluation / "test.jsonl").write_text(json.dumps({"q": ["w7 w8", "w20 w21 w22 w23"], "n": 1}) + "\n")
    against = f"feedback.decontaminate={{words: 2, against: [{evaluation}]}}"
    config = make(against, "train.steps=2", "feedback.heldout_fraction=0.2", "evaluation.prompts.limit=4")
    assert execute(config) == "done"
    plan, record = describe(config)
    data = json.loads((record.folder / "data.json").read_text())
    # Prompts "wN wN+1" with chosen "wN+2 wN+3": N of 5 and 7, and 18, 19, 20, 21 and 22 share two words in a row.
    found = data["contaminated"]
    heldout = {
        json.loads(line)["prompt"][0]["content"]
        for line in (tmp_path / "artifacts/feedback" / plan.fingerprints["feedback"] / "heldout.jsonl")
        .read_text()
        .splitlines()
    }
    hit = {n for n in (5, 7, 18, 19, 20, 21, 22) if f"w{n} w{n + 1}" not in heldout}
    assert found["left_out"] == len(hit) == found["by_set"][str(evaluation)]
    assert data["rows"] == 40 - data["heldout_rows"] - len(hit)
    assert data["dropped"] == {"shares words with an evaluation text": len(hit)}
    (evaluation / "test.jsonl").write_text("{}\n")
    assert describe(make(against))[0].fingerprints["feedback"] != plan.fingerprints["feedback"]


def test_folders_of_any_depth_and_format_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "suite"
    (folder / "deep").mkdir(parents=True)
    datasets.Dataset.from_list([{"question": QUESTION, "choices": ["a", "b"]}]).save_to_disk(str(folder / "deep/saved"))
    (folder / "task.json").write_text(json.dumps({"canary": "x", "examples": [{"input": "in a file"}]}))
    (folder / "notes.txt").write_text("not read")
    texts = EvaluationTexts(Decontamination(evaluation=False, against=(folder,)), EvaluationConfig(name="x"))
    assert sorted(texts.load()[str(folder)]) == sorted([QUESTION, "a", "b", "in a file"])
    before = texts.identity()
    (folder / "task.json").write_text("[]")
    assert texts.identity() != before
    nothing = EvaluationTexts(Decontamination(against=(tmp_path / "none",)), EvaluationConfig(name="x"))
    with pytest.raises(FeedbackError, match=r"feedback.decontaminate.against: .*none is no file"):
        nothing.identity()


def test_the_suite_finds_its_questions_in_real_feedback(shared: Callable[[str], Path]) -> None:
    """GSM8K's example solutions are about its test questions, which are given away by 13 words in a row; HH is not."""
    suite = Benchmarks(tasks=("gsm8k",))
    evaluation = EvaluationConfig(name="x", benchmarks=suite, data_root=shared("benchmarks"))
    texts = EvaluationTexts(Decontamination(), evaluation)
    assert set(texts.identity()["benchmarks"]) == {"gsm8k"}
    same = evaluation.model_copy(update={"benchmarks": suite.model_copy(update={"num_fewshot": 3, "limit": 1})})
    assert EvaluationTexts(Decontamination(), same).identity() == texts.identity(), "which words do not depend on these"
    overlaps = Overlaps(texts.load(), 13)
    left, counts = decontaminated(GSM8KSolutions(path=shared("feedback/gsm8k-solutions")).load(), overlaps)
    assert (counts["rows"], counts["texts"]) == (5276, {"benchmark: gsm8k": 2 * 1319})
    assert len(left) < 20
    path = shared("feedback/hh-rlhf/helpful-base.test.jsonl.gz")
    assert decontaminated(HHRLHF(path=path, limit=500).load(), overlaps)[1]["left_out"] == 0


def test_the_prompts_of_the_evaluation_count(make: MakeConfig) -> None:
    fields = ["evaluation=sandbox", "evaluation.prompts.count=5", "feedback.decontaminate={words: 13}"]
    texts = evaluation_texts(make(*fields, "evaluation.benchmarks.tasks=[sandbox_facts]"))
    assert texts is not None
    loaded = texts.load()
    assert {name.split(":")[0] for name in loaded} == {"prompts", "benchmark"}
    assert all(len(found) >= 5 for found in loaded.values())
    without = evaluation_texts(make(*fields, "evaluation.benchmarks=null"))
    assert without is not None
    assert without.identity() != texts.identity()
    assert evaluation_texts(make()) is None


class Asked(PromptSource):
    name: str = "asked"

    def load(self, heldout: Feedback) -> list[EvaluationPrompt]:
        return [EvaluationPrompt("1", user("first turn"), "what it is compared with", ("second turn",))]


def test_later_turns_and_references_are_evaluation_texts_too() -> None:
    evaluation = EvaluationConfig(name="x").model_copy(update={"prompts": Asked()})
    texts = EvaluationTexts(Decontamination(), evaluation)
    assert texts.load() == {"prompts: asked": ["first turn", "second turn", "what it is compared with"]}


def test_a_run_that_would_be_compared_with_nothing_is_refused(make: MakeConfig, tmp_path: Path) -> None:
    for field in ("feedback.decontaminate={words: 13}", "feedback.decontaminate={words: 13, evaluation: false}"):
        with pytest.raises(ConfigError, match=r"feedback.decontaminate: .*compares with nothing: evaluation 'heldout'"):
            describe(make("evaluation=heldout", "feedback.heldout_fraction=0.2", field))
    (tmp_path / "a.jsonl").write_text("{}")
    describe(make("evaluation=heldout", f"feedback.decontaminate={{words: 13, against: [{tmp_path / 'a.jsonl'}]}}"))
