"""Runs judged by models, from configuration to record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from judge_server import JudgeServer, Reply, error
from places import ROOT

from kto_bench.component import ConfigError
from kto_bench.config import Config, resolve
from kto_bench.evaluation.judges import endpoint
from kto_bench.run import describe, execute

KEY = "sk-of-the-run"


@pytest.fixture
def judged(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Config]]:
    """An untrained policy, whose completions of held-out prompts are judged."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)
    feedback = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i + 2}", "rejected": "w0"} for i in range(30)]
    feedback.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(*overrides: str) -> Config:
        base = ["model=hub", f"model.path={checkpoint}", "model.name=tiny", "feedback=jsonl", "start=base", "loss=none"]
        base += [f"feedback.path={feedback}", "feedback.heldout_fraction=0.3", "tracking=none"]
        base += ["evaluation.generation.max_new_tokens=4", "evaluation.generation.temperature=0"]
        base += [f"artifacts={tmp_path / 'artifacts'}", f"results={tmp_path / 'results'}"]
        return resolve(compose("config", [*base, *overrides]))

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield config


def even(request: dict[str, Any], seen: int = 0) -> str:
    """Prefers the response whose text, as numbers, has the larger sum."""
    first, second = re.findall(r"Response [12]:\n(.*)\n", request["messages"][0]["content"])
    return "1" if sum(map(int, re.findall(r"\d+", first))) > sum(map(int, re.findall(r"\d+", second))) else "2"


def expected(row: dict[str, Any]) -> float:
    """What that makes of ours; ties go to whichever comes second, so both orders make a half."""
    ours, other = (sum(map(int, re.findall(r"\d+", row[name]))) for name in ("completion", "reference"))
    return 0.5 if ours == other else float(ours > other)


def test_the_judge_of_the_kto_paper_from_configuration_to_record(
    judged: Callable[..., Config], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused: dict[str, str] = {}

    def reply(request: dict[str, Any], seen: int) -> Reply | str:
        conversation = request["messages"][0]["content"].partition("[end of conversation]")[0]
        if refused.setdefault("first", conversation) == conversation:
            return error(400, "refused")
        return error(429, "slow", retry_after="0.02") if seen == 0 else even(request)

    with JudgeServer(reply) as server:
        overrides = [f"evaluation.judge.base_url={server.url}", "evaluation.judge.orders=both"]
        config = judged("judge@evaluation.judge=kto_paper", *overrides)
        plan, record = describe(config)
        assert execute(config) == "failed"
        status = json.loads((record.folder / "status.json").read_text())
        assert re.search(r"left 2 of \d+ comparisons .*refused with status 400", status["traceback"])
        said = capfd.readouterr().err
        assert re.search(
            r"judge kto_paper: \d+ answers to ask for, about [\d,]+ tokens in and at most [\d,]+ out: about \$0", said
        )
        before = len(server.requests)
        refused["first"] = "none"
        assert execute(judged("judge@evaluation.judge=kto_paper", *overrides, "retry=failed")) == "done"
        assert len(server.requests) - before == 2, "the two that are missing, in either order"
        assert server.keys == {f"Bearer {KEY}"}
        request = server.requests[0]
    assert {key: request[key] for key in ("model", "temperature", "seed", "max_tokens")} == {
        **{"model": "gpt-4-0613", "temperature": 0.0, "seed": 0, "max_tokens": 10}
    }
    completions = [json.loads(line) for line in (record.folder / "completions.jsonl").read_text().splitlines()]
    judgements = [json.loads(line) for line in (record.folder / "judgements.jsonl").read_text().splitlines()]
    assert [row["preference"] for row in judgements] == list(map(expected, completions))
    scores = json.loads((record.folder / "scores.json").read_text())["head_to_head"]
    assert scores["judge"] == "kto_paper"
    assert scores["win_rate"] == pytest.approx(sum(map(expected, completions)) / len(completions))
    assert scores["account"]["calls"] == 2 * len(completions)
    assert scores["account"]["dollars"] == pytest.approx(2 * len(completions) * (100 * 30 + 60) / 1e6)
    assert 0 <= scores["position"]["consistent"] <= 1
    artifact = config.run.artifacts / "judge" / plan.fingerprints["judge"]
    assert (artifact / "answers.jsonl").is_file()
    assert not artifact.with_name(f"{artifact.name}.saved").exists(), "cleared away once all is there"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), "the key is nowhere"


def test_without_its_key_or_price_a_judge_is_refused_before_anything_runs(
    judged: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match=r"key_variable: the environment has no OPENAI_API_KEY"):
        judged("judge@evaluation.judge=kto_paper")
    with pytest.raises(ConfigError, match=r"evaluation\.judge\.input_price: required"):
        judged("judge@evaluation.judge=endpoint", "evaluation.judge.model=m", "evaluation.judge.output_price=0")


def test_a_local_model_judges(judged: Callable[..., Config], checkpoint: Path) -> None:
    """The untrained checkpoint itself: any word it says first counts as 1, no word as 2."""
    config = judged(
        "judge@evaluation.judge=local_model",
        f"evaluation.judge.path={checkpoint}",
        "evaluation.judge.name=itself",
        "evaluation.judge.dtype=float32",
        r"evaluation.judge.wording.patterns={1: '\S', 2: '^\s*$'}",
        "evaluation.judge.wording.prompt_template='{instruction} {output_1} {output_2}'",
    )
    assert execute(config) == "done"
    _, record = describe(config)
    scores = json.loads((record.folder / "scores.json").read_text())["head_to_head"]
    assert (scores["judge"], scores["account"]["dollars"]) == ("itself", None)
    for line in (record.folder / "judgements.jsonl").read_text().splitlines():
        row = json.loads(line)
        (ask,) = row["asks"]
        assert row["preference"] == float((ask["ours"] == 1) == bool(ask["answer"].strip()))
