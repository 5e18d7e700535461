from pathlib import Path

import lm_eval
import pytest
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import kto_bench.sandbox.tasks
from kto_bench.sandbox.instructions import read
from kto_bench.sandbox.tasks import utils
from kto_bench.sandbox.tokenizer import build_tokenizer
from kto_bench.sandbox.utility import assess

FOLDER = Path(kto_bench.sandbox.tasks.__file__).parent
CHOICE_TASKS = {"sandbox_facts", "sandbox_arithmetic", "sandbox_lists", "sandbox_words"}


class KnowsIt(LM):
    """Answers from the gold utility, or (``contrary``) the other way round. It sees rendered prompts only."""

    tokenizer_name = "sandbox"

    def __init__(self, contrary=False):
        super().__init__()
        self.contrary = contrary
        self.contexts = []

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        tokenizer = build_tokenizer()
        return tokenizer.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt)

    def chat_template(self, chat_template=False):
        return build_tokenizer().chat_template

    def _utility(self, context, text):
        self.contexts.append(context)
        question = context.removeprefix("<|bos|><|user|>").removesuffix("<|assistant|>")
        return assess(read(question), text).utility * (-1 if self.contrary else 1)

    def loglikelihood(self, requests):
        return [(self._utility(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise AssertionError("no task asks for it")

    def generate_until(self, requests):
        return ["i do not know." if self.contrary else request.doc["target"] for request in requests]


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_path=str(FOLDER), include_defaults=False)


@pytest.fixture(scope="module")
def evaluate(manager):
    def run(model):
        return lm_eval.simple_evaluate(
            model, tasks=["sandbox"], task_manager=manager, apply_chat_template=True, num_fewshot=0, bootstrap_iters=0
        )

    return run


def test_who_knows_everything_gets_everything(evaluate):
    model = KnowsIt()
    found = evaluate(model)
    assert set(found["results"]) == {*CHOICE_TASKS, "sandbox_answers"}
    assert {found["results"][task]["acc,none"] for task in CHOICE_TASKS} == {1.0}
    assert found["results"]["sandbox_answers"]["utility,none"] == 1.0
    assert found["results"]["sandbox_answers"]["correct,none"] == 1.0
    assert set(found["versions"].values()) == {1}
    assert {counts["effective"] for counts in found["n-samples"].values()} == {200}
    assert all(context.endswith("<|assistant|>") for context in model.contexts)


def test_who_prefers_the_worst_gets_nothing(evaluate):
    found = evaluate(KnowsIt(contrary=True))["results"]
    assert {found[task]["acc,none"] for task in CHOICE_TASKS} == {0.0}
    assert found["sandbox_answers"]["utility,none"] == pytest.approx(-1)


def test_every_question_is_held_out_and_every_choice_differs(manager):
    for task in manager.load(["sandbox"])["tasks"].values():
        documents = list(task.test_docs())
        assert len(documents) == 200
        for document in documents:
            assert read(document["question"]).held_out
            assert len(set(document.get("choices", "123456"))) == 6


def test_near_misses_are_among_the_choices():
    plus = [document for document in utils.arithmetic()["test"] if " plus " in document["choices"][document["label"]]]
    assert any(any(" minus " in choice for choice in document["choices"]) for document in plus)
    colours = [document for document in utils.facts()["test"] if "colour" in document["question"]]
    assert all(sum("eats" in choice or "lives" in choice for choice in one["choices"]) == 2 for one in colours)
    assert {document["label"] for document in utils.words()["test"]} == set(range(6))
