"""Arena-Hard: five verdicts in both orders, joined with the baseline, strong ones counting three times."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from judge_server import JudgeServer, Reply
from question_set_run import configured, record_of, write_lines

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.answers import Answer
from kto_bench.evaluation.judges.wording import Wording
from kto_bench.evaluation.question_sets.arena_hard import ArenaHardPrompts
from kto_bench.evaluation.question_sets.verdicts import ArenaHardWording, verdict_of
from kto_bench.feedback.types import Feedback
from kto_bench.lines import read_lines
from kto_bench.run import describe, execute

NONE = Feedback("demonstrations", [])
QUESTIONS = [{"question_id": f"q{i}", "category": "c", "turns": [{"content": f"w{i} w{i}"}]} for i in range(4)]
ANSWERS = [
    {"question_id": f"q{i}", "model_id": "b", "choices": [{"turns": [{"content": f"baseline {i}"}]}]} for i in range(4)
]
VERDICTS = {"q0": ("A>>B", "B>>A"), "q1": ("A>B", "A>B"), "q2": ("A=B", "B>A"), "q3": ("B>A", "A>>B")}
"""By question, when ours is A, and when the baseline is."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "path": write_lines(tmp_path / "question.jsonl", QUESTIONS),
        "baseline_path": write_lines(tmp_path / "gpt-4-0314.jsonl", ANSWERS[::-1]),  # joined by id, not by place
    }


def verdicts(request: dict[str, Any], seen: int) -> Reply:
    user = request["messages"][-1]["content"]
    number = user.partition("baseline ")[2][0]
    baseline_first = user.index("baseline ") < user.index("End of answer A")
    return Reply(f"Both are short. [[{VERDICTS[f'q{number}'][baseline_first]}]]")


def test_a_run_counts_strong_verdicts_three_times(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    with JudgeServer(verdicts) as server:
        assert execute(configured("arena_hard", tmp_path, checkpoint, server.url, *paths)) == "done"
    assert len(server.requests) == 8
    record = record_of(tmp_path)
    judgements = {row["prompt_id"]: row for row in read_lines(record / "judgements.jsonl")}
    # q0: we win strongly in both; q1: a win and a loss; q2: a tie and a win; q3: a loss, and a strong loss
    assert [judgements[f"q{i}"]["preference"] for i in range(4)] == [1.0, 0.5, 0.75, 0.0]
    assert all("baseline" in row["reference"] for row in read_lines(record / "completions.jsonl"))
    statistics = json.loads((record / "scores.json").read_text())["statistics"]
    # wins 6 + 1 + 1.5 + 0 of 6 + 2 + 2 + 4
    assert statistics["values"]["score"]["value"] == pytest.approx(8.5 / 14)
    assert statistics["values"]["score"]["low"] < 8.5 / 14 < statistics["values"]["score"]["high"]
    assert statistics["notes"][0] == "4 questions, not 500"
    assert len(statistics["notes"]) == 2
    assert "words of ours" in statistics["notes"][1]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("My final verdict is tie: [[A=B]].", "A=B"),
        ("[[A>>B]]", "A>>B"),
        ("[[B<<A]]", "A>>B"),
        ("[[B>A]] indeed [[B>A]]", "B>A"),
        ("[[A>B]] no, [[B>A]]", None),
        ("[[A]]", None),
        ("A>B", None),
    ],
)
def test_verdicts_are_read(text, verdict):
    assert verdict_of(text) == verdict
    preference = ArenaHardWording().preference(Answer(text))
    assert preference == {None: None, "A=B": 1.5, "A>>B": 1.0, "B>A": 2.0}[verdict]


def test_both_versions_of_the_files_are_read(tmp_path, files):
    prompts = ArenaHardPrompts(**files).load(NONE)
    assert [(prompt.id, prompt.reference) for prompt in prompts] == [(f"q{i}", f"baseline {i}") for i in range(4)]
    questions = [
        {"uid": f"u{i}", "category": c, "prompt": f"p{i}"} for i, c in enumerate(["hard_prompt", "creative_writing"])
    ]
    answers = [
        {
            "uid": f"u{i}",
            "messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": {"answer": f"b{i}"}}],
        }
        for i in range(2)
    ]
    second = ArenaHardPrompts(
        version="v2.0",
        category="hard_prompt",
        path=write_lines(tmp_path / "q2.jsonl", questions),
        baseline_path=write_lines(tmp_path / "o3-mini.jsonl", answers),
    )
    assert [(prompt.id, prompt.prompt[0]["content"], prompt.reference) for prompt in second.load(NONE)] == [
        ("u0", "p0", "b0")
    ]


def test_the_prompt_is_arena_hards_where_its_file_is_given(tmp_path):
    path = tmp_path / "judge_config.yaml"
    path.write_text(
        'system_prompt: "be fair"\nprompt_template: ["<|Q|>\\n{question_1}\\nA {answer_1}\\nB {answer_2}"]\n'
    )
    wording = ArenaHardWording(path=path)
    system, user = wording.request("q {answer_1}", "first", "second")
    assert (system["content"], user["content"]) == ("be fair", "<|Q|>\nq {answer_1}\nA first\nB second")
    assert wording.identity() != ArenaHardWording().identity()
    path.write_text("system_prompt: x\n")
    node = {"_target_": "kto_bench.evaluation.question_sets.verdicts.ArenaHardWording", "path": path}
    with pytest.raises(ConfigError, match=r"evaluation.judge.wording.path: .*no judge_config.yaml"):
        build(node, Wording, "evaluation.judge.wording")


def test_a_baseline_of_other_questions_is_refused(tmp_path, files):
    other = write_lines(tmp_path / "other.jsonl", ANSWERS[:3])
    with pytest.raises(ConfigError, match=r"evaluation.prompts.baseline_path: 1 of 4 questions .* \['q3'\]"):
        ArenaHardPrompts(path=files["path"], baseline_path=other).load(NONE)


def test_files_that_are_something_else_are_refused_before_anything_is_computed(tmp_path, checkpoint, files):
    swapped = [f"evaluation.prompts.path={files['baseline_path']}", f"evaluation.prompts.baseline_path={files['path']}"]
    config = configured("arena_hard", tmp_path, checkpoint, "http://127.0.0.1:1/v1", *swapped)
    with pytest.raises(ConfigError, match=r"evaluation.prompts.path: the row .* lacks a prompt .*question.jsonl"):
        describe(config)
    with pytest.raises(ConfigError, match=r"evaluation.prompts.baseline_path: .* lacks an answer .*gpt-4-0314.jsonl"):
        ArenaHardPrompts(path=files["path"], baseline_path=files["path"]).load(NONE)
    nameless = write_lines(tmp_path / "nameless.jsonl", [{"turns": [{"content": "w"}]}])
    with pytest.raises(ConfigError, match=r"evaluation.prompts.path: the row .* lacks a prompt .*uid"):
        ArenaHardPrompts(path=nameless, baseline_path=files["baseline_path"]).load(NONE)
    assert not (tmp_path / "artifacts").exists()


def test_texts_that_tie_unasked_weigh_as_much_as_others(files):
    judge = SimpleNamespace(repeats=3, model="other")
    asks = [{"ours": ours, "answer": "[[A>B]]" if ours == 1 else "[[B>A]]"} for ours in (1, 2) for _ in range(3)]
    judgements = [
        {"prompt_id": "q0", "preference": 1.0, "asks": asks},
        {"prompt_id": "q1", "preference": 0.5, "asks": []},
    ]
    found = ArenaHardPrompts(**files).statistics([{}, {}], judgements, judge)  # type: ignore[arg-type]
    assert found["values"]["score"]["value"] == pytest.approx(0.75)
    assert "the judge is not gpt-4-1106-preview" in found["notes"]


def test_one_order_another_wording_and_a_missing_category_are_refused(tmp_path, checkpoint, files):
    paths = [f"evaluation.prompts.{field}={path}" for field, path in files.items()]
    url = "http://127.0.0.1:1/v1"
    for override, message in (
        ("evaluation.judge.orders=random", "evaluation.judge.orders: 'random' is not allowed"),
        ("judge@evaluation.judge=alpaca_eval_2", "Arena-Hard needs a model judge whose wording is"),
        ("evaluation.prompts.version=v2.0", "evaluation.prompts.category: None is not allowed: v2.0 has hard_prompt"),
    ):
        with pytest.raises(ConfigError, match=message):
            configured("arena_hard", tmp_path, checkpoint, url, *paths, override)


def test_an_unreadable_verdict_is_no_number(files):
    prompts = ArenaHardPrompts(**files)
    judgements = [{"prompt_id": "q0", "preference": 1.0, "asks": [{"ours": 1, "answer": "perhaps"}]}]
    with pytest.raises(EvaluationError, match="the verdict on 'q0' cannot be read"):
        prompts.statistics([{}], judgements, SimpleNamespace(repeats=1))  # type: ignore[arg-type]
