import hashlib
import json
import random
from dataclasses import asdict
from statistics import correlation, mean

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from places import ROOT

from kto_bench.component import ConfigError, build
from kto_bench.config import resolve
from kto_bench.evaluation.generation.prompts import PromptSource
from kto_bench.feedback.annotators.reward_model import RewardModelAnnotator
from kto_bench.feedback.preparation import prepare
from kto_bench.feedback.scores import ScoreRule
from kto_bench.feedback.sources.mixture import MixtureFeedback
from kto_bench.feedback.types import Feedback, FeedbackSource
from kto_bench.sandbox.annotators import SimulatedAnnotator
from kto_bench.sandbox.feedback import SandboxFeedback, comparisons
from kto_bench.sandbox.instructions import FAMILIES, read
from kto_bench.sandbox.prompts import SandboxPrompts
from kto_bench.sandbox.utility import assess
from kto_bench.seeds import derive

NOBODY = Feedback("paired", [])


@pytest.fixture(scope="module")
def paired():
    return SandboxFeedback(pairs=2000).load()


@pytest.fixture(scope="module")
def binary():
    return SandboxFeedback(pairs=2000, kind_of_feedback="binary").load()


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


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
    exact = SimulatedAnnotator(noise=0, temperature=1e-6)
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
    node = OmegaConf.to_container(composed(f"feedback={name}").feedback, resolve=True)
    source = build(node, FeedbackSource, "feedback")
    kind = "binary" if name == "sandbox_binary" else "paired"
    assert source == SandboxFeedback(name=name, kind_of_feedback=kind)
    assert source.kind() == kind


def test_the_evaluation_yaml_builds_the_defaults(conf):
    node = conf("evaluation/sandbox.yaml")
    assert build(node["prompts"], PromptSource, "evaluation.prompts") == SandboxPrompts()


def digest(feedback):
    text = "\n".join(json.dumps(asdict(row), sort_keys=True) for row in feedback.rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(("name", "rows"), [("sandbox", "6037e866e804cc5d"), ("sandbox_binary", "86e62e502dd36873")])
def test_the_rows_are_those_that_the_committed_results_are_about(name, rows):
    """Digests of the rows as they were when the reference records were made."""
    kind = "binary" if name == "sandbox_binary" else "paired"
    assert digest(SandboxFeedback(name=name, kind_of_feedback=kind).load()) == rows


def test_feedback_held_out_is_about_held_out_cores(paired):
    source = SandboxFeedback(pairs=2000, heldout_pairs=50)
    heldout = source.heldout()
    assert source.holds_out
    assert heldout.kind == "paired"
    assert len(heldout) == 50
    assert all(question(row).held_out for row in heldout.rows)
    assert source.load().rows == paired.rows
    assert not {row.id for row in heldout.rows} & {row.id for row in paired.rows}
    prepared = prepare(source, {})
    assert (prepared.train.rows, prepared.heldout.rows) == (paired.rows, heldout.rows)
    binary = SandboxFeedback(kind_of_feedback="binary", heldout_pairs=50).heldout()
    assert [row.completion for row in binary.rows[:2]] == [heldout.rows[0].chosen, heldout.rows[0].rejected] or (
        [row.completion for row in binary.rows[1::-1]] == [heldout.rows[0].chosen, heldout.rows[0].rejected]
    )
    assert SandboxFeedback().heldout() is None
    assert not SandboxFeedback().holds_out


def test_questions_are_not_held_out_by_share():
    with pytest.raises(ValueError, match="heldout_pairs"):
        SandboxFeedback(heldout_fraction=0.1)


def test_ratings_become_labels_and_pairs():
    """The same ratings: up from 4 on; and the higher one preferred, ties being dropped and counted."""
    rule = ScoreRule(threshold=3.5)
    source = SandboxFeedback(pairs=400, kind_of_feedback="binary", scores=rule)
    shown = comparisons(0, 400, held_out=False)
    ratings = source.annotator.rate(shown, random.Random(derive(0, "sandbox", "labels", "binary")))
    assert [row.label for row in source.load().rows] == [rating > 3 for own in ratings for rating in own]
    paired = SandboxFeedback(pairs=400, scores=ScoreRule(margin=2)).load()
    ratings = SimulatedAnnotator().rate(shown, random.Random(derive(0, "sandbox", "labels", "paired")))
    clear = [one for one, (first, second) in zip(shown, ratings, strict=True) if abs(first - second) >= 2]
    assert [row.id for row in paired.rows] == [one.id for one in clear]
    assert sum(paired.dropped.values()) == 400 - len(clear)
    texts = {one.id: dict(zip(one.completions, own, strict=True)) for one, own in zip(shown, ratings, strict=True)}
    assert all(texts[row.id][row.chosen] >= texts[row.id][row.rejected] + 2 for row in paired.rows)


ENDPOINT = (
    "annotator@feedback.annotator=judge",
    "judge@feedback.annotator.judge=endpoint",
    "feedback.annotator.judge.model=m",
    "feedback.annotator.judge.input_price=0",
    "feedback.annotator.judge.output_price=0",
    "feedback.annotator.judge.key_variable=NO_SUCH_KEY",
)


@pytest.mark.parametrize("loss", ["dpo", "none"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (ENDPOINT, "NO_SUCH_KEY"),
        (("annotator@feedback.annotator=reward_model",), "'reward_model' cannot choose .*median_human"),
        (
            ("annotator@feedback.annotator=judge", "feedback.scores={threshold: 3.5, margin: 0.0}"),
            "'judge' cannot rate .* feedback.scores=",
        ),
    ],
)
def test_an_annotator_that_could_not_answer_is_refused_before_anything_runs(overrides, message, loss, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=message):
        resolve(composed(f"loss={loss}", *overrides))


def test_a_mixture_checks_its_parts():
    part = SandboxFeedback(pairs=2, annotator=RewardModelAnnotator())
    with pytest.raises(ConfigError, match="reward_model"):
        MixtureFeedback(parts={"one": part}).check()
