"""Stored artifacts are found by ``world.VERSION``, so what the sandbox generates may not change under one version."""

import hashlib
import json
from dataclasses import asdict

from kto_bench.sandbox import world
from kto_bench.sandbox.corpus import SandboxCorpus
from kto_bench.sandbox.feedback import SandboxFeedback
from kto_bench.sandbox.judge import GoldUtilityJudge
from kto_bench.sandbox.prompts import SandboxPrompts
from kto_bench.sandbox.tasks import utils

DIGEST = "6eb071f19fb41371"


def sample():
    paired = SandboxFeedback(pairs=300)
    judge = GoldUtilityJudge()
    rows = [*paired.load().rows, *paired.demonstrations().rows[:300]]
    rows += SandboxFeedback(pairs=300, kind_of_feedback="binary").load().rows
    prompts = SandboxPrompts(count=50).load(paired.load())
    return {
        "stream": SandboxCorpus().stream(20000, seed=0).tolist(),
        # Fields that the sandbox leaves empty say nothing of what it generates.
        "rows": [{key: value for key, value in asdict(row).items() if value not in ("", ())} for row in rows + prompts],
        "scores": [judge.scores(row.prompt[0]["content"], row.chosen) for row in rows[:300]],
        "benchmarks": [list(task()["test"]) for task in (utils.facts, utils.arithmetic, utils.lists, utils.words)],
    }


def test_a_change_of_what_is_generated_needs_a_new_version():
    digest = hashlib.sha256(json.dumps(sample(), sort_keys=True).encode()).hexdigest()[:16]
    assert (world.VERSION, digest) == (1, DIGEST), (
        "the sandbox generates something else than before: raise world.VERSION (and the version of the tasks in "
        "tasks/*.yaml), then put both in this test"
    )


def test_the_version_is_in_every_identity():
    for component in (SandboxCorpus(), SandboxFeedback(), SandboxPrompts(), GoldUtilityJudge()):
        assert component.identity()["sandbox"] == world.VERSION
