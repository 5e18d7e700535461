"""The implied reward of labelled examples: chosen, scored and recorded, through runs of the suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from small_run import MakeConfig
from test_at_steps import artifact, done

from kto_bench.component import ConfigError
from kto_bench.config import Config, resolve
from kto_bench.evaluation import implied_reward
from kto_bench.evaluation.implied_reward import Example, Scored, fitting, labelled_examples
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Binary, Paired, write_rows
from kto_bench.lines import read_lines
from kto_bench.models import load_policy, load_tokenizer
from kto_bench.results import Sweep
from kto_bench.run import describe

ASKED = "evaluation.implied_reward=6"


def by_hand(checkpoint: Path, prompt: str, completion: str) -> float:
    """log pi(y|x) by the whole logits of one sequence."""
    encoder = Encoder(load_tokenizer(checkpoint), 64, 64)
    x, y = encoder.prompt(({"role": "user", "content": prompt},)), encoder.completion(completion)
    with torch.no_grad():
        logits = load_policy(checkpoint)(torch.tensor([x + y])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(x) - 1 + place, token]) for place, token in enumerate(y))


def rows_of(config: Config) -> list[dict[str, Any]]:
    return read_lines(describe(config)[1].folder / implied_reward.ROWS)


@pytest.mark.parametrize(
    ("loss", "reward"),
    {
        "dpo": lambda ours, its, tokens: 0.1 * (ours - its),
        "kto": lambda ours, its, tokens: 0.1 * (ours - its),
        "simpo": lambda ours, its, tokens: 2.0 * ours / tokens,
        "sft": lambda ours, its, tokens: ours / tokens,
        "csft": None,
        "ppo": lambda ours, its, tokens: ours - its,
        "none": lambda ours, its, tokens: ours / tokens,
    }.items(),
)
def test_it_is_the_reward_that_the_loss_states(make: MakeConfig, loss: str, reward: Any) -> None:
    config = make(f"loss={loss}", ASKED, "feedback.label_noise=0.25")
    folder = done(config)
    rows, summary = rows_of(config), json.loads((folder / "scores.json").read_text())["implied_reward"]
    assert summary["declared"] == (loss not in ("sft", "csft", "none"))
    assert (summary["reference_point"] is not None) == (loss == "kto")
    assert [row["mislabelled"] for row in rows if row["split"] == "heldout"] == [False] * 6
    assert sum(row["mislabelled"] for row in rows) == 6, "of 8 that label noise turned round"
    assert sum(row["split"] == "train" and not row["mislabelled"] for row in rows) == 6
    texts = {row["id"]: row for row in read_lines(artifact(config, "feedback") / "train.jsonl")}
    policy, start = artifact(config, "checkpoint" if loss == "none" else "align"), artifact(config, "checkpoint")
    wrong = next(row for row in rows if row["mislabelled"])
    text = texts[wrong["id"]]
    for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
        completion, prompt = text[other], text["prompt"][0]["content"]  # its sides were swapped
        ours, its = (by_hand(place, prompt, completion) for place in (policy, start))
        if reward is None:  # its prompts end with a control token
            assert wrong[side]["reward"] == pytest.approx(wrong[side]["log_prob"] / wrong[side]["tokens"], rel=1e-4)
            continue
        assert wrong[side]["log_prob"] == pytest.approx(ours, rel=1e-4)
        assert wrong[side]["reward"] == pytest.approx(reward(ours, its, wrong[side]["tokens"]), rel=1e-3, abs=1e-4)
        assert ("reference_log_prob" in wrong[side]) == (loss in ("dpo", "kto", "ppo"))
    table = Sweep.load("adhoc", folder.parents[1]).implied_rewards
    assert len(table) == 2 * len(rows)
    assert set(table["side"]) == {"chosen", "rejected"}


def test_single_completions_have_a_reference_point(make: MakeConfig, tmp_path: Path) -> None:
    """BCO's is the mean reward of training; KTO's the mean over mismatched pairs, here by hand."""
    data = tmp_path / "thumbs.jsonl"
    rows = [{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 2}", "label": i % 2 == 0} for i in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"feedback.path={data}", "evaluation.judge=null", "evaluation.prompts=null", ASKED]
    bco, kto = make("loss=bco", *settings), make("loss=kto", *settings)
    summary = json.loads((done(bco) / "scores.json").read_text())["implied_reward"]
    steps = read_lines(artifact(bco) / "metrics.jsonl")
    assert summary["reference_point"] == pytest.approx(sum(s["rewards/mean"] for s in steps) / len(steps), rel=1e-4)
    folder = done(kto)
    found = rows_of(kto)
    assert {row["label"] for row in found} == {True, False}
    trained = [row for row in found if row["split"] == "train"]
    texts = {row["id"]: row for row in read_lines(artifact(kto, "feedback") / "train.jsonl")}
    ordered = [texts[row["id"]] for row in trained]
    ratios = [
        by_hand(artifact(kto), before["prompt"][0]["content"], row["completion"])
        - by_hand(artifact(kto, "checkpoint"), before["prompt"][0]["content"], row["completion"])
        for before, row in zip([ordered[-1], *ordered[:-1]], ordered, strict=True)
    ]
    point = json.loads((folder / "scores.json").read_text())["implied_reward"]["reference_point"]
    assert point == pytest.approx(max(0.0, 0.1 * sum(ratios) / len(ratios)), rel=1e-3, abs=1e-5)
    table = Sweep.load("adhoc", folder.parents[1]).implied_rewards
    assert set(table["side"]) == {"completion"}
    assert set(table["desirable"]) == {True, False}


def test_the_sandbox_says_what_it_knows_of_each_completion(make: MakeConfig, tmp_path: Path) -> None:
    config = resolve(
        compose(
            "config",
            [
                *("model=sandbox_tiny", "model.pretrain.tokens=4096", "feedback=sandbox", "feedback.pairs=40"),
                *("start=base", "loss=dpo", "train.steps=2", "train.completions_per_step=8", "tracking=none", ASKED),
                *("evaluation=heldout", "feedback.heldout_pairs=8", "evaluation.generation.max_new_tokens=4"),
                *(f"artifacts={tmp_path / 'artifacts'}", f"results={tmp_path / 'results'}"),
            ],
        )
    )
    folder = done(config)
    table = Sweep.load("adhoc", folder.parents[1]).implied_rewards
    assert table[["utility", "perceived", "correct", "politeness", "flattery", "confidence"]].notna().all(axis=None)
    assert table["correct"].isin([0.0, 1.0]).all()
    better = table.groupby(["example", "side"])["utility"].first().unstack()
    assert (better["chosen"] > better["rejected"]).mean() > 0.5, "annotators mostly prefer what is better"


def test_nothing_is_asked_by_default_and_asking_changes_no_other_stage(make: MakeConfig) -> None:
    plain, asked = (describe(make(*more))[0].fingerprints for more in ([], [ASKED]))
    assert {name: asked[name] for name in plain} == plain
    assert set(asked) - set(plain) == {"implied_reference", "implied_reward"}
    assert "implied_reference" not in describe(make("loss=orpo", ASKED))[0].fingerprints
    dpo, ipo = (describe(make(f"loss={loss}", ASKED))[0].fingerprints for loss in ("dpo", "ipo"))
    assert dpo["implied_reference"] == ipo["implied_reference"], "the start is scored once for all losses"
    assert dpo["implied_reward"] != ipo["implied_reward"]


@pytest.mark.parametrize(("given", "rows"), [("true", 512), ("false", None), ("null", None), ("7", 7)])
def test_how_many_rows(make: MakeConfig, given: str, rows: int | None) -> None:
    assert make(f"evaluation.implied_reward={given}").evaluation.implied_reward == rows


def test_what_has_no_label_is_refused(make: MakeConfig, tmp_path: Path) -> None:
    data = tmp_path / "shown.jsonl"
    data.write_text('{"prompt": "w1", "completion": "w2"}\n' * 3)
    with pytest.raises(ConfigError, match=r"evaluation\.implied_reward: 6 is not allowed: demonstrations"):
        make("loss=sft", f"feedback.path={data}", "evaluation.judge=null", "evaluation.prompts=null", ASKED)
    with pytest.raises(ConfigError, match="implied_reward"):
        make("evaluation.implied_reward=1")


def _pair(number: int, prompt: str = "") -> Paired:
    return Paired(str(number), ({"role": "user", "content": prompt or f"w{number}"},), "w1", "w2 w3")


def test_the_sample_is_the_same_for_all_and_holds_few_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "heldout.jsonl", [_pair(i) for i in range(50)])
    write_rows(tmp_path / "train.jsonl", [_pair(i) for i in range(100, 200)])
    first, again = (labelled_examples(tmp_path, tmp_path, "paired", "paired", 10) for _ in range(2))
    assert first == again
    assert [example.split for example in first] == ["heldout"] * 10 + ["train"] * 10
    numbers = [int(example.row.id) for example in first[:10]]
    assert numbers == sorted(numbers)
    assert numbers != list(range(10)), "a sample, not the first rows"
    assert len(labelled_examples(tmp_path, tmp_path, "paired", "paired", 1000)) == 150


def test_mismatched_pairs_have_another_prompt() -> None:
    examples = [Example(_pair(i, "same" if i < 2 else ""), "train") for i in range(4)]
    scored = Scored.of([Example(_pair(9), "heldout"), *examples], mismatched=True)
    wrong = list(zip(scored.prompts[10:], scored.completions[10:], strict=True))
    said = [(prompt[0]["content"], completion) for prompt, completion in wrong]
    assert said == [("w3", "w1"), ("same", "w1"), ("w2", "w1")], "each with the prompt of the completion before it"
    assert scored.mismatched == 3
    assert Scored.of(examples, mismatched=False).mismatched == 0


def test_what_the_model_has_no_positions_for_is_left_out(make: MakeConfig, checkpoint: Path) -> None:
    train = make().train
    long = Paired("long", ({"role": "user", "content": "w1 " * 40},), "w1 " * 20, "w2")
    short = Binary("short", ({"role": "user", "content": "w1"},), "w1", True)
    tokenizer = load_tokenizer(checkpoint)
    examples = [Example(long, "heldout"), Example(short, "train")]
    prompt = len(Encoder(tokenizer, **train.token_limits).prompt(long.prompt))
    assert fitting(examples, tokenizer, train, prompt + 21) == examples
    assert fitting(examples, tokenizer, train, prompt + 20) == examples[1:]
    assert fitting(examples, tokenizer, train, None) == examples
