"""A checkpoint on this machine as a judge."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from kto_bench.component import ConfigError, build
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.answers import Answer
from kto_bench.evaluation.judges.asking import ask
from kto_bench.evaluation.judges.head_to_head import judge as judge_rows
from kto_bench.evaluation.judges.judge import Judge
from kto_bench.evaluation.judges.local_judge import LocalModelJudge

WORDING = {
    "_target_": "kto_bench.evaluation.judges.wording.Wording",
    "prompt_template": "{instruction} w50 {output_1} w51 {output_2}",
    # A model that was never trained says anything: what it says first decides.
    "patterns": {1: r"^w\d*[02468]\b", 2: r"^w\d*[13579]\b", 1.5: r"^(?!w)"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge")
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def judge_of(folder: Path, **fields: Any) -> LocalModelJudge:
    node = {"_target_": "kto_bench.evaluation.judges.local_judge.LocalModelJudge", "name": "local", "path": str(folder)}
    judge = build(
        {**node, "dtype": "float32", "max_tokens": 3, "wording": WORDING, **fields}, Judge, "evaluation.judge"
    )
    assert isinstance(judge, LocalModelJudge)
    return judge


def stage(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.partial-1"
    path.mkdir()
    return path


def rows(count: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": f"p{i}",
            "prompt": [{"role": "user", "content": f"w{i} w{i + 1}"}],
            "completion": f"w{i + 2}",
            "reference": f"w{i + 3} w{i}",
        }
        for i in range(count)
    ]


def test_its_answers_are_those_of_the_model(folder: Path, tmp_path: Path) -> None:
    """Greedy, against transformers' own generate on the prompt that the template writes."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    judgements, summary = judge_rows(rows(), judge_of(folder, batch_size=4), stage(tmp_path, "a"))
    for row, judgement in zip(rows(), judgements, strict=True):
        (asked,) = judgement["asks"]
        outputs = [row["completion"], row["reference"]]
        first, second = outputs if asked["ours"] == 1 else outputs[::-1]
        text = f"<s><user>{row['prompt'][0]['content']} w50 {first} w51 {second}<assistant>"
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
        assert asked["answer"] == tokenizer.decode(out, skip_special_tokens=True)
    assert summary["account"]["calls"] == 6
    assert summary["account"]["dollars"] is None


def test_log_probabilities_are_those_of_the_model(folder: Path, tmp_path: Path) -> None:
    judge = judge_of(folder, top_logprobs=5, max_tokens=2)
    request = ({"role": "user", "content": "w1 w2 w3"},)
    (answer,) = ask(judge, [request], lambda answer: answer, stage(tmp_path, "a")).values
    assert isinstance(answer, Answer)
    assert answer.top_logprobs is not None
    assert len(answer.top_logprobs) == 2
    tokenizer = tiny_tokenizer()
    ids = tokenizer("<s><user>w1 w2 w3<assistant>", add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        logs = torch.log_softmax(tiny_model()(ids).logits[0, -1], -1)
    for text, value in answer.top_logprobs[0].items():
        assert value == pytest.approx(float(logs[tokenizer.convert_tokens_to_ids(text)]), abs=1e-5)
    assert max(answer.top_logprobs[0].values()) == pytest.approx(float(logs.max()), abs=1e-5)
    assert math.fsum(map(math.exp, answer.top_logprobs[1].values())) < 1


def test_repeats_draw_anew_and_the_same_launch_draws_the_same(folder: Path, tmp_path: Path) -> None:
    judge = judge_of(folder, temperature=1.5, repeats=3, batch_size=5)
    judgements, summary = judge_rows(rows(), judge, stage(tmp_path, "a"))
    again, _ = judge_rows(rows(), judge_of(folder, temperature=1.5, repeats=3, batch_size=2), stage(tmp_path, "b"))
    assert again == judgements
    assert summary["noise"]["differing"] > 0
    assert summary["noise"]["n"] == 6
    with pytest.raises(ConfigError, match="at temperature 0 a local model always answers alike"):
        judge_of(folder, repeats=2)


def test_what_it_cannot_be_asked_is_missing(folder: Path, tmp_path: Path) -> None:
    long = {**rows(1)[0], "completion": "w1 " * 300}
    with pytest.raises(EvaluationError, match=r"left 1 of 2 .*p0: \d+ tokens and max_tokens=3 exceed the judge's 256"):
        judge_rows([long, rows(2)[1]], judge_of(folder), stage(tmp_path, "a"))


def test_identity_is_the_content_of_the_folder(folder: Path, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert judge_of(moved).identity() == judge_of(folder).identity()
    assert judge_of(moved, batch_size=1).identity() == judge_of(folder).identity()
    assert judge_of(moved, seed=1).identity() != judge_of(folder).identity()
    tiny_model("gpt_neox").save_pretrained(moved)
    assert judge_of(moved).identity() != judge_of(folder).identity()
    with pytest.raises(ConfigError, match="there is no such folder"):
        judge_of(tmp_path / "absent")
