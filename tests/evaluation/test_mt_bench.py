"""MT-Bench: both turns are asked and graded, with reference answers where they belong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, Reply
from question_set_run import configured, record_of, write_lines

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.answers import Answer
from kto_bench.evaluation.judges.wording import Wording
from kto_bench.evaluation.question_sets.grading import NAMES, GradingWording, grade_of
from kto_bench.evaluation.question_sets.mt_bench import MTBenchPrompts
from kto_bench.feedback.types import Feedback
from kto_bench.lines import read_lines
from kto_bench.run import describe, execute

NONE = Feedback("demonstrations", [])
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["w1 w2", "w3"]},
    {"question_id": 111, "category": "math", "turns": ["w4 w5", "w6 w7"]},
]
REFERENCES = [{"question_id": 111, "choices": [{"turns": ["the answer is 4", "the answer is 9"]}]}]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "path": write_lines(tmp_path / "question.jsonl", QUESTIONS),
        "reference_path": write_lines(tmp_path / "gpt-4.jsonl", REFERENCES),
    }


def grades(request: dict[str, Any], seen: int) -> Reply:
    """8 for first answers, 4 for second ones; 2 less beside a reference; unreadable the first time it is asked."""
    user = request["messages"][-1]["content"]
    grade = (4 if "End of the conversation." in user else 8) - 2 * ("the answer is 4" in user)
    return Reply("hard to say" if seen == 0 and grade == 4 else f"Fine. [[{grade}]]")


def test_a_run_grades_both_turns_and_records_means_by_turn_and_category(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    with JudgeServer(grades) as server:
        assert execute(configured("mt_bench", tmp_path, checkpoint, server.url, *paths)) == "done"
    record = record_of(tmp_path)
    completions = {row["prompt_id"]: row for row in read_lines(record / "completions.jsonl")}
    assert [turn["user"] for turn in completions["mt_bench-81"]["turns"]] == [None, "w3"]
    shown = [request["messages"][-1]["content"] for request in server.requests]
    second = completions["mt_bench-81"]["turns"][1]["completion"]
    assert any(f"User:\nw3\n\nAssistant:\n{second}" in text and "Correct answer" not in text for text in shown)
    assert any("Correct answers:\nthe answer is 4\n\nthe answer is 9" in text for text in shown)
    assert len(server.requests) == 5  # one answer could not be read

    judgements = {row["prompt_id"]: row for row in read_lines(record / "judgements.jsonl")}
    assert judgements["mt_bench-81"]["scores"] == {"rating": 6.0, "rating turn 1": 8.0, "rating turn 2": 4.0}
    assert judgements["mt_bench-111"]["scores"] == {"rating": 4.0, "rating turn 1": 6.0, "rating turn 2": 2.0}
    assert judgements["mt_bench-81"]["preference"] is None
    assert [asked["answer"] for asked in judgements["mt_bench-81"]["asks"]] == ["Fine. [[8]]", "Fine. [[4]]"]
    scores = json.loads((record / "scores.json").read_text())
    assert scores["head_to_head"]["means"]["rating"] == 5.0
    statistics = scores["statistics"]
    assert statistics["values"]["rating"]["value"] == 5.0
    assert statistics["values"]["rating turn 2"]["value"] == 3.0
    assert statistics["categories"] == {"writing": {"rating": 6.0, "n": 1}, "math": {"rating": 4.0, "n": 1}}
    notes = ["one temperature for all categories", "2 questions, not 80"]
    assert statistics["notes"][:2] == notes
    assert any("words of ours" in note for note in statistics["notes"])
    assert not any("the judge is not" in note or "cut" in note for note in statistics["notes"])


def test_the_prompts_are_mt_benchs_where_their_file_is_given(tmp_path):
    def template(name: str) -> dict[str, str]:
        fields = "{question} {answer}" if "multi" not in name else "{question_1} {answer_1} {question_2} {answer_2}"
        return {"name": name, "system_prompt": f"system of {name}", "prompt_template": f"{fields} {{ref_answer_1}}"}

    path = write_lines(tmp_path / "judge_prompts.jsonl", [template(name) for name in (*NAMES.values(), "pair-v2")])
    wording = GradingWording(path=path)
    system, user = wording.grading(["q {answer}"], ["a {question}"], ["r"])
    assert system == {"role": "system", "content": "system of single-math-v1"}
    assert user["content"] == "q {answer} a {question} r"  # in one pass
    _, user = wording.grading(["q1", "q2"], ["a1", "a2"], None)
    assert user["content"] == "q1 a1 q2 a2 {ref_answer_1}"  # as it stands in the template: there is none
    assert wording.identity() != GradingWording().identity()
    with pytest.raises(ConfigError, match=r"evaluation.judge.wording.path: .*other.jsonl is not MT-Bench's"):
        build(
            {
                "_target_": "kto_bench.evaluation.question_sets.grading.GradingWording",
                "path": write_lines(tmp_path / "other.jsonl", [template("single-v1")]),
            },
            Wording,
            "evaluation.judge.wording",
        )


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[3] or rather [[4]]", 4.0),
        ("Rating: [6]", 6.0),
        ("[[10]]", 10.0),
        ("[[11]]", None),
        ("[[0]]", None),
        ("7", None),
        ("", None),
    ],
)
def test_grades_are_read_as_fastchat_reads_them_but_only_from_1_to_10(text, grade):
    assert grade_of(Answer(text)) == grade


def test_what_cannot_be_graded_is_refused_before_anything_is_asked(tmp_path, files):
    prompts = MTBenchPrompts(**files)
    first, math = prompts.load(NONE)
    assert first.next_turns == ("w3",)
    row = {"prompt_id": math.id, "prompt": list(math.prompt), "turns": [{"completion": "a"}, {"completion": "b"}]}
    wording = GradingWording()
    assert len(prompts._requests([row], wording)) == 2
    with pytest.raises(EvaluationError, match="no answer to both turns"):
        prompts._requests([{**row, "turns": row["turns"][:1]}], wording)
    with pytest.raises(EvaluationError, match="no answer to both turns"):  # a shifted join
        prompts._requests([{**row, "prompt": list(first.prompt)}], wording)


@pytest.mark.parametrize(
    "references",
    [[], [{**REFERENCES[0], "choices": []}], [{"question_id": 111, "choices": [{"turns": ["one turn"]}]}], QUESTIONS],
)
def test_references_that_are_not_there_are_missed_before_anything_is_computed(tmp_path, checkpoint, files, references):
    paths = {**files, "reference_path": write_lines(tmp_path / "none.jsonl", references)}
    fields = [f"evaluation.prompts.{field}={path}" for field, path in paths.items()]
    config = configured("mt_bench", tmp_path, checkpoint, "http://127.0.0.1:1/v1", *fields)
    with pytest.raises(ConfigError, match=r"reference_path: there is no reference .* 1 of 1 .*'mt_bench-111' \(math\)"):
        describe(config)
    assert not (tmp_path / "artifacts").exists()


def test_grades_are_repeated_and_a_relaunch_asks_for_the_missing_ones_only(tmp_path, checkpoint, files):
    """The second of two grades is one higher; second turns are graded only once the server is whole again."""
    broken = True

    def repeated(request: dict[str, Any], seen: int) -> Reply:
        second = "End of the conversation." in request["messages"][-1]["content"]
        if broken and second:
            return Reply("", status=400)
        return Reply(f"[[{(4 if second else 8) + seen}]]")

    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    with JudgeServer(repeated) as server:
        fields = [*paths, "evaluation.judge.repeats=2", "evaluation.judge.concurrency=1"]
        assert execute(configured("mt_bench", tmp_path, checkpoint, server.url, *fields)) == "failed"
        reason = json.loads((record_of(tmp_path) / "status.json").read_text())["reason"]
        assert "4 of 8 grades are missing (mt_bench-81 turn 2: " in reason
        broken = False
        server._seen.clear()
        assert len(server.requests) == 8
        assert execute(configured("mt_bench", tmp_path, checkpoint, server.url, *fields)) == "done"
        assert len(server.requests) == 12
    record = record_of(tmp_path)
    for row in read_lines(record / "judgements.jsonl"):
        assert row["scores"] == {"rating": 6.5, "rating turn 1": 8.5, "rating turn 2": 4.5}
        assert [(asked["turn"], asked["repeat"]) for asked in row["asks"]] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    scores = json.loads((record / "scores.json").read_text())
    assert scores["head_to_head"]["noise"]["standard_deviation_of_a_grade"] == pytest.approx(0.5**0.5)
    assert scores["head_to_head"]["account"]["calls"] == 8


def test_a_conversation_that_does_not_fit_is_counted_and_another_judge_is_named(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    paths += ["evaluation.generation.max_prompt_tokens=6", "evaluation.judge.model=another"]
    with JudgeServer(grades) as server:
        assert execute(configured("mt_bench", tmp_path, checkpoint, server.url, *paths)) == "done"
    record = record_of(tmp_path)
    rows = read_lines(record / "completions.jsonl")
    cut = [row["prompt_id"] for row in rows if row.get("cut")]
    assert cut
    notes = json.loads((record / "scores.json").read_text())["statistics"]["notes"]
    assert f"{len(cut)} prompts were cut (evaluation.generation.max_prompt_tokens)" in notes
    assert "the judge is not gpt-4" in notes


def test_other_judges_and_other_files_are_refused(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    url = "http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError, match=r"MT-Bench needs a model judge whose wording is .*GradingWording"):
        configured("mt_bench", tmp_path, checkpoint, url, *paths, "judge@evaluation.judge=alpaca_eval_2")
    for number, row in enumerate([{"question_id": 1, "turns": ["one"]}, {"turns": ["a", "b"], "category": "math"}]):
        wrong = write_lines(tmp_path / f"wrong{number}.jsonl", [row])
        with pytest.raises(ConfigError, match=r"evaluation.prompts.path: 1 of 1 rows lack a question_id, two turns or"):
            MTBenchPrompts(path=wrong).load(NONE)


def test_other_reference_answers_are_graded_anew_and_not_generated_anew(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    url = "http://127.0.0.1:1/v1"
    before = describe(configured("mt_bench", tmp_path, checkpoint, url, *paths))[0].stages
    files["reference_path"].write_text(files["reference_path"].read_text().replace("is 9", "is 8"))
    after = describe(configured("mt_bench", tmp_path, checkpoint, url, *paths))[0].stages
    assert after["generate"].fingerprint == before["generate"].fingerprint
    assert after["judge"].fingerprint != before["judge"].fingerprint


def test_missing_grades_fail_with_their_count(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    with JudgeServer(lambda request, seen: Reply("no grade")) as server:
        config = configured("mt_bench", tmp_path, checkpoint, server.url, *paths, "evaluation.judge.asks=2")
        assert execute(config) == "failed"
    reason = json.loads((record_of(tmp_path) / "status.json").read_text())["reason"]
    assert "4 of 4 grades are missing (mt_bench-81 turn 1: answer 'no grade'" in reason
    assert len(server.requests) == 8
