"""The prefix of training and of generation: kept by training, compared before anything is generated."""

import json

import pytest
from small_run import MakeConfig
from tiny_checkpoints import build_tokenizer

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.generation.prefix import PREFIXES, check_prefixes, first_prompts, save_prefixes
from kto_bench.feedback.tokenising import tokenise
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, Feedback, write_rows
from kto_bench.models import load_tokenizer
from kto_bench.run import describe, execute
from kto_bench.store import Store

ROWS = [{"prompt": [{"role": "user", "content": "capital of france"}], "ids": [0, 2, 9, 10, 6, 4, 3]}]


def user(text):
    return ({"role": "user", "content": text},)


def write(folder, ids):
    (folder / PREFIXES).write_text(json.dumps([{**ROWS[0], "ids": ids}]))


def test_equal_prefixes_pass_and_what_was_not_trained_here_too(tmp_path):
    tokenizer = build_tokenizer()
    check_prefixes(tmp_path, tokenizer)
    write(tmp_path, ROWS[0]["ids"])
    check_prefixes(tmp_path, tokenizer)


def test_a_changed_template_is_refused_and_the_difference_shown(tmp_path):
    write(tmp_path, ROWS[0]["ids"])
    template = "{% for m in messages %}<|user|> {{ m['content'] }} {% endfor %}<|assistant|>"  # without <|end|>
    with pytest.raises(
        EvaluationError, match=r"from token 5 on: .*<\|end\|>.*capital of france.*delete the\s+artifact"
    ):
        check_prefixes(tmp_path, build_tokenizer(template))


@pytest.mark.parametrize("ids", [[0, *ROWS[0]["ids"]], ROWS[0]["ids"][:-1], [*ROWS[0]["ids"], 5]])
def test_one_token_more_or_less_is_refused(tmp_path, ids):
    write(tmp_path, ids)
    with pytest.raises(EvaluationError, match="trained after another prefix"):
        check_prefixes(tmp_path, build_tokenizer())


def test_a_prompt_that_was_cut_is_not_kept(tmp_path):
    """It is compared without a limit, and would differ from itself."""
    rows = [
        Binary(name, user(text), "no", True) for name, text in (("long", "the capital of france is"), ("short", "a"))
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    data = tokenise(Feedback("binary", rows), Encoder(build_tokenizer(), 6, 4))
    assert data.truncated["prompt"] == 1
    prompts = first_prompts(tmp_path / "rows.jsonl", data, 6)
    assert list(prompts.values()) == [list(user("a"))]
    save_prefixes(tmp_path, prompts, data)
    check_prefixes(tmp_path, build_tokenizer())


@pytest.mark.parametrize("loss", ["kto", "csft"])
def test_a_run_compares_them(make: MakeConfig, loss: str) -> None:
    """Also where the loss ends every prompt with a control token."""
    config = make(f"loss={loss}")
    assert execute(config) == "done"
    plan, _ = describe(config)
    folder = Store(config.run.artifacts).folder(plan.stages["align"])
    rows = json.loads((folder / PREFIXES).read_text())
    assert len(rows) == 8
    tokenizer = load_tokenizer(folder)
    assert all(tokenizer.decode(row["ids"]).replace(" ", "").startswith("<s><user>w") for row in rows)
    tokenizer.chat_template = tokenizer.chat_template.replace("'<'", "'w1 <'")
    with pytest.raises(EvaluationError, match="trained after another prefix"):
        check_prefixes(folder, tokenizer)
