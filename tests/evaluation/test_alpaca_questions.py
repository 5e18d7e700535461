"""AlpacaEval's instructions from a local file: what is asked, what is refused, and what is said of the result."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from alpaca_data import FOLDER

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prompts import PromptSource
from kto_bench.evaluation.judges.judge import CallableJudge
from kto_bench.evaluation.question_sets.alpaca.questions import (
    COUNT,
    INSTRUCTIONS,
    REFERENCES,
    AlpacaEvalPrompts,
    digest,
)
from kto_bench.feedback.types import Feedback

NONE = Feedback("demonstrations", [])
ROWS = [{"instruction": f"question {i}?", "output": f"answer {i}", "generator": "g"} for i in range(6)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.fixture
def judge() -> CallableJudge:
    return CallableJudge(function="small_run.shorter")


def judged(prompts: AlpacaEvalPrompts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    asked = prompts.load(NONE)
    completions = [
        {"prompt_id": one.id, "prompt": list(one.prompt), "completion": "ours", "reference": one.reference}
        for one in asked
    ]
    return completions, [{"prompt_id": one.id, "preference": i % 2} for i, one in enumerate(asked)]


def test_questions_are_called_by_their_place(file):
    first, second, *_ = AlpacaEvalPrompts(path=file).load(NONE)
    assert (first.id, first.prompt[0], first.reference) == (
        "alpaca_eval-000",
        {"role": "user", "content": "question 0?"},
        "answer 0",
    )
    assert second.id == "alpaca_eval-001"
    assert [prompt.id for prompt in AlpacaEvalPrompts(path=file, limit=2).load(NONE)] == [first.id, second.id]


def test_lists_lines_gzip_and_annotations_hold_the_same_questions(tmp_path, file):
    lines, packed, annotations = tmp_path / "a.jsonl", tmp_path / "a.json.gz", tmp_path / "annotations.json"
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    packed.write_bytes(gzip.compress(file.read_bytes()))
    annotated = [{"instruction": row["instruction"], "output_1": row["output"], "output_2": "ours"} for row in ROWS]
    annotations.write_text(json.dumps(annotated))
    expected = AlpacaEvalPrompts(path=file).load(NONE)
    for other in (lines, packed, annotations):
        assert AlpacaEvalPrompts(path=other).load(NONE) == expected


def test_identity_is_the_content_not_the_path_and_not_what_is_counted(tmp_path, file):
    copy = tmp_path / "copy.json"
    copy.write_bytes(file.read_bytes())
    prompts = AlpacaEvalPrompts(path=file, length_control=None)
    assert prompts.identity() == AlpacaEvalPrompts(path=copy, length_control="length_controlled_minimal").identity()
    copy.write_text(json.dumps(ROWS[:5]))
    assert prompts.identity() != AlpacaEvalPrompts(path=copy).identity()
    minimal = AlpacaEvalPrompts(path=file, length_control="length_controlled_minimal")
    assert prompts.statistics_identity() != minimal.statistics_identity()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "it holds no questions"),
        ('[{"instruction": "q"}]', "question 1 lacks an instruction or an output"),
        ("{broken", "neither a JSON list nor JSON lines"),
        ("[1]", "holds values that are no JSON objects"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"evaluation\.prompts\.path: .*{message}"):
        AlpacaEvalPrompts(path=path).load(NONE)


def test_without_a_file_or_the_hub_the_error_says_what_to_do():
    with pytest.raises(ConfigError, match=r"evaluation.prompts.path: alpaca_eval.json of the hub's dataset .*=PATH"):
        AlpacaEvalPrompts(version=1).identity()  # tests are offline
    node = {"_target_": "kto_bench.evaluation.question_sets.alpaca.questions.AlpacaEvalPrompts", "version": 3}
    with pytest.raises(ConfigError, match=r"evaluation\.prompts\.version: 3 is not allowed"):
        build(node, PromptSource, "evaluation.prompts")


def test_the_hubs_file_is_used_where_none_is_given(tmp_path, file, monkeypatch):
    """A cache of the hub's as an earlier download leaves it."""
    from huggingface_hub import constants

    repository = tmp_path / "datasets--tatsu-lab--alpaca_eval"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    file.rename(repository / "snapshots" / "abc" / "alpaca_eval_gpt4_baseline.json")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert len(AlpacaEvalPrompts().load(NONE)) == len(ROWS)


def test_the_statistics_say_how_they_differ_from_the_leaderboards(file, judge):
    prompts = AlpacaEvalPrompts(path=file, length_control=None)
    found = prompts.statistics(*judged(prompts), judge)
    assert found["notes"] == [
        "6 of 805 questions",
        "other reference outputs than the leaderboard's gpt4_1106_preview",
        "judge 'callable' does not ask as weighted_alpaca_eval_gpt4_turbo does",
        "the judge is not gpt-4-1106-preview",
    ]
    assert found["values"]["win rate"]["value"] == 0.5
    assert found["counts"]["n_total"] == 6


def test_a_shifted_join_is_refused(file, judge):
    prompts = AlpacaEvalPrompts(path=file, length_control=None)
    completions, judgements = judged(prompts)
    shifted = judgements[1:] + judgements[:1]
    with pytest.raises(
        EvaluationError, match=r"not of the same prompts in the same order; they first differ in .*-000.*-001"
    ):
        prompts.statistics(completions, shifted, judge)
    with pytest.raises(EvaluationError, match="the number of rows"):
        prompts.statistics(completions, judgements[:-1], judge)


def test_difficulties_are_not_given_to_other_questions(file, judge):
    prompts = AlpacaEvalPrompts(path=file)
    with pytest.raises(EvaluationError, match="not AlpacaEval's instructions in their published order"):
        prompts.statistics(*judged(prompts), judge)


def test_what_statistics_need_is_missed_before_a_judge_is_paid(tmp_path, file, judge):
    gamed = tmp_path / "df_gamed.csv"
    columns = "index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline,model"
    gamed.write_text("\n".join([columns, *(f"{i},0.5,0.1,0.2,False,gamed" for i in range(COUNT))]))
    prompts = AlpacaEvalPrompts(path=file, gamed_path=gamed)
    with pytest.raises(ConfigError, match="not AlpacaEval's instructions in their published order"):
        prompts.check_files(judged=True)
    prompts.check_files(judged=False)
    gamed.write_text("\n".join([columns, *(f"{i},0.5,0.1,0.2,False,gamed" for i in range(COUNT - 5))]))
    with pytest.raises(ConfigError, match=r"gamed_path: the difficulties of 5 of 805 .* of \[800, 801, 802\]"):
        prompts.check_files(judged=True)
    few = AlpacaEvalPrompts(path=file, length_control="length_controlled_minimal", limit=4)
    with pytest.raises(ConfigError, match=r"evaluation.prompts.limit: 4 questions are too few .*5-fold"):
        few.check_files(judged=True)


def test_other_reference_outputs_are_told_of_a_few_questions_too(shared):
    def notes(file: str) -> list[str]:
        prompts = AlpacaEvalPrompts(path=shared(f"{FOLDER}/{file}"), limit=3, length_control=None)
        return prompts.statistics(*judged(prompts), CallableJudge(function="small_run.shorter"))["notes"]

    assert not any("reference outputs" in note for note in notes("gpt4_1106_preview.model_outputs.json.gz"))
    assert any("reference outputs" in note for note in notes("phi-2-dpo.model_outputs.json.gz"))


def test_the_published_sets_are_the_ones_that_are_known(shared):
    turbo = AlpacaEvalPrompts(path=shared(f"{FOLDER}/gpt4_1106_preview.model_outputs.json.gz")).load(NONE)
    assert len(turbo) == COUNT
    assert digest([prompt.prompt[0]["content"] for prompt in turbo]) == INSTRUCTIONS
    assert digest([str(prompt.reference) for prompt in turbo]) == REFERENCES[2]
