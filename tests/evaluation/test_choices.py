"""The log-probabilities of choices, against what lm-eval itself makes of them."""

import numpy as np
import pytest
from tiny import tiny_model, tiny_tokenizer

from kto_bench.evaluation.benchmarks.suite import Benchmarks

SANDBOX = {"include_path": "pkg:kto_bench.sandbox.tasks", "limit": 8, "apply_chat_template": False}


@pytest.fixture(scope="module")
def asked():
    """Scores, rows and choices of one multiple-choice task and one that is generated."""
    choices = []
    benchmarks = Benchmarks(tasks=("sandbox_facts", "sandbox_answers"), choices=True, max_new_tokens=2, **SANDBOX)
    scores, rows = benchmarks.run(tiny_model(), tiny_tokenizer(), 0, on_choices=choices.extend)
    return scores, rows, choices


def test_there_is_a_row_for_each_document_of_multiple_choice_alone(asked):
    _, _, choices = asked
    assert [(row["task"], row["doc_id"]) for row in choices] == [("sandbox_facts", i) for i in range(8)]
    assert all(len(row["log_probs"]) == len(row["characters"]) == 6 for row in choices)
    assert len({row["right"] for row in choices}) > 1


def test_the_likeliest_choice_is_what_lm_eval_scores(asked):
    _, rows, choices = asked
    correct = [float(np.argmax(row["log_probs"]) == row["right"]) for row in choices]
    assert correct == [row["value"] for row in rows if (row["task"], row["metric"]) == ("sandbox_facts", "acc")]


def test_they_are_recorded_where_they_are_asked_for_alone():
    plain, asked = (Benchmarks(tasks=("sandbox_facts",), choices=choices, **SANDBOX) for choices in (False, True))
    assert "choices" not in plain.identity()
    assert asked.identity() == {**plain.identity(), "choices": True}


def test_tasks_that_are_taken_up_again_still_have_them(tmp_path):
    found = []
    for _ in range(2):
        choices = []
        Benchmarks(tasks=("sandbox_facts",), choices=True, **{**SANDBOX, "limit": 2}).run(
            tiny_model(), tiny_tokenizer(), 0, saved=tmp_path, on_choices=choices.extend
        )
        found.append(choices)
    assert found[0] == found[1]
    assert len(found[0]) == 2
