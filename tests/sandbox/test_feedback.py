from statistics import correlation, mean

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from places import ROOT

from kto_bench.component import build
from kto_bench.evaluation.generation.prompts import PromptSource
from kto_bench.feedback.types import Feedback, FeedbackSource
from kto_bench.sandbox.annotator import Annotator
from kto_bench.sandbox.feedback import SandboxFeedback
from kto_bench.sandbox.instructions import FAMILIES, read
from kto_bench.sandbox.prompts import SandboxPrompts
from kto_bench.sandbox.utility import assess

NOBODY = Feedback("paired", [])


@pytest.fixture(scope="module")
def paired():
    return SandboxFeedback(pairs=2000).load()


@pytest.fixture(scope="module")
def binary():
    return SandboxFeedback(pairs=2000, kind_of_feedback="binary").load()


def content(row):
    (message,) = row.prompt
    assert message["role"] == "user"
    return message["content"]


def question(row):
    return read(content(row))


def u(row, text):
    return assess(question(row), text).utility


def test_paired_and_binary_are_about_the_same_completions(paired, binary):
    assert (paired.kind, binary.kind) == ("paired", "binary")
    assert (len(paired), len(binary)) == (2000, 4000)
    assert [row.id for row in binary.rows[:2]] == ["00000a", "00000b"]
    for pair, first, second in zip(paired.rows, binary.rows[::2], binary.rows[1::2], strict=True):
        assert pair.prompt == first.prompt == second.prompt
        assert {pair.chosen, pair.rejected} == {first.completion, second.completion}
        assert pair.chosen != pair.rejected


def test_no_training_prompt_is_held_out(paired):
    demonstrations = SandboxFeedback().demonstrations()
    assert demonstrations.kind == "demonstrations"
    assert len(demonstrations) == 4000
    for rows in (paired.rows, demonstrations.rows):
        assert not any(question(row).held_out for row in rows)
        assert {question(row).family for row in rows} == set(FAMILIES)


def test_labels_follow_the_utility(paired, binary):
    agreement = mean(
        u(row, row.chosen) > u(row, row.rejected) for row in paired.rows if u(row, row.chosen) != u(row, row.rejected)
    )
    assert 0.80 < agreement < 0.95
    by_label = {
        label: mean(u(row, row.completion) for row in binary.rows if row.label is label) for label in (True, False)
    }
    assert by_label[True] > 0.5 > -0.3 > by_label[False]
    assert 0.35 < mean(row.label for row in binary.rows) < 0.65


def test_an_exact_annotator_is_never_wrong():
    exact = Annotator(noise=0, temperature=1e-6)
    rows = SandboxFeedback(pairs=300, annotator=exact).load().rows
    assert all(u(row, row.chosen) >= u(row, row.rejected) for row in rows)


def test_length_says_little_about_quality(paired):
    texts = [(row, text) for row in paired.rows for text in (row.chosen, row.rejected)]
    assert abs(correlation([u(*one) for one in texts], [len(text.split()) for _, text in texts])) < 0.2


def test_the_seed_names_the_data_set(paired):
    assert SandboxFeedback(pairs=20).load().rows == paired.rows[:20]
    assert SandboxFeedback(pairs=20, seed=1).load().rows != paired.rows[:20]
    assert (
        SandboxFeedback(demonstration_rows=9).demonstrations()
        == SandboxFeedback(demonstration_rows=9, kind_of_feedback="binary").demonstrations()
    )


def test_demonstrations_are_mediocre():
    rows = SandboxFeedback().demonstrations().rows
    assert 0.5 < mean(u(row, row.completion) for row in rows) < 0.85


def test_prompts_are_held_out_distinct_and_reproducible():
    prompts = SandboxPrompts(count=512).load(NOBODY)
    assert prompts == SandboxPrompts(count=512).load(NOBODY)
    assert prompts[:256] == SandboxPrompts().load(NOBODY)
    assert len({content(row) for row in prompts}) == len({row.id for row in prompts}) == 512
    assert all(question(row).held_out for row in prompts)
    assert 0.4 < mean(u(row, row.reference) for row in prompts) < 0.9


@pytest.mark.parametrize("name", ["sandbox", "sandbox_binary"])
def test_the_yaml_builds_the_defaults(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = OmegaConf.to_container(compose("config", [f"feedback={name}"]).feedback)
    source = build(node, FeedbackSource, "feedback")
    kind = "binary" if name == "sandbox_binary" else "paired"
    assert source == SandboxFeedback(name=name, kind_of_feedback=kind)
    assert source.kind() == kind


def test_the_evaluation_yaml_builds_the_defaults(conf):
    node = conf("evaluation/sandbox.yaml")
    assert build(node["prompts"], PromptSource, "evaluation.prompts") == SandboxPrompts()
