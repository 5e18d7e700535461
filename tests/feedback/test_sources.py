"""Each published set: rows of its schema, through ``datasets`` as a hub's repository would be read, to ours."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from hydra import compose, initialize_config_dir
from places import ROOT
from published_rows import (
    alpaca,
    dialogue,
    feedbackqa,
    gsm8k,
    helpsteer2,
    helpsteer2_preference,
    kto_mix,
    oasst,
    shp,
    ultrachat,
    ultrafeedback,
)

from kto_bench.component import ConfigError, build
from kto_bench.feedback.scores import ScoreRule
from kto_bench.feedback.sources.alpaca import Alpaca
from kto_bench.feedback.sources.feedbackqa import FeedbackQA
from kto_bench.feedback.sources.gsm8k_solutions import GSM8KSolutions
from kto_bench.feedback.sources.helpsteer2 import HelpSteer2, turns
from kto_bench.feedback.sources.hh_rlhf import HHRLHF
from kto_bench.feedback.sources.oasst import OpenAssistant
from kto_bench.feedback.sources.shp import SHP
from kto_bench.feedback.sources.ultrachat import UltraChat
from kto_bench.feedback.sources.ultrafeedback import UltraFeedback
from kto_bench.feedback.types import Binary, Demonstration, FeedbackError, FeedbackSource, Paired

Repository = Callable[..., str]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A folder that is laid out as a repository of the hub, parquet files called after their splits."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(**splits: list[dict[str, Any]]) -> str:
        folder = tmp_path / "repository"
        (folder / "data").mkdir(parents=True)
        for split, rows in splits.items():
            datasets.Dataset.from_list(rows).to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
        return str(folder)

    return make


def user(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def test_ultrafeedback(repository: Repository) -> None:
    rows = [
        ultrafeedback("p", "good", "bad", (9.0, 4.0)),
        ultrafeedback("p", "same", "same", (5.0, 5.0)),
        ultrafeedback("q", "fine", "as fine", (7.0, 7.0)),
        {**ultrafeedback("r", "x", "y", (7.0, 3.0)), "rejected": [{"role": "user", "content": "r"}]},
    ]
    hub = repository(train_prefs=rows, test_prefs=[ultrafeedback("t", "a", "b", (2.0, 1.0))])
    source = UltraFeedback(hub=hub, heldout_split="test_prefs")
    feedback = source.load()
    assert feedback.rows == [
        Paired("train_prefs:1", user("p"), "good", "bad"),
        Paired("train_prefs:3", user("q"), "fine", "as fine"),
    ]
    assert feedback.dropped == {
        "chosen equals rejected": 1,
        "the conversations are not about the same prompt": 1,
    }
    assert feedback.first_dropped["chosen equals rejected"] == f"{hub} (train_prefs), row 2"
    heldout = source.heldout()
    assert heldout is not None
    assert [row.prompt for row in heldout.rows] == [user("t")]
    assert source.origin() == {"hub": hub, "revision": "main", "commit": None}, "a folder has no commits"
    clear = UltraFeedback(hub=hub, scores={"margin": 1})
    assert [row.chosen for row in clear.load().rows] == ["good"]
    binary = UltraFeedback(hub=hub, read_as="binary", scores={"threshold": 7, "margin": 0})
    assert binary.kind() == "binary"
    assert [(row.completion, row.label) for row in binary.load().rows] == [
        ("good", True),
        ("bad", False),
        ("fine", True),
        ("as fine", True),
    ]


def test_hh_rlhf(repository: Repository) -> None:
    prompt = ("Hi", "Yes?", "Why?")
    double = "\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: "
    pairs = [
        (dialogue(*prompt, "So."), dialogue(*prompt, "No. ")),
        (dialogue("Hi", "a"), dialogue("Hi", "a")),
        (dialogue("Hi", "a"), dialogue("Ho", "b")),
        (dialogue("Hi", "a"), dialogue("Hi", "")),
        (dialogue("Hi", "a", "More"), dialogue("Hi", "b")),
        (f"{double}b", f"{double}c"),
    ]
    hub = repository(train=[{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs])
    feedback = HHRLHF(hub=hub).load()
    messages = tuple(
        {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), prompt, strict=True)
    )
    assert feedback.rows == [Paired("train:1", messages, "So.", "No.")]
    assert feedback.dropped == dict.fromkeys(
        [
            "chosen equals rejected",
            "the dialogues differ before the last turn",
            "empty completion",
            "the dialogue goes on after the last Assistant turn",
            "Human and Assistant do not alternate",
        ],
        1,
    )


def test_shp(repository: Repository) -> None:
    crowded = [shp("crowded", f"{n}x", ratio=3.0, scores=(10 * n + 5, 2)) for n in range(8)]
    rows = [
        shp("few", "ab", label=0, scores=(3, 9)),
        shp("few", "cd", ratio=1.9, scores=(99, 52)),
        *crowded,
        shp("few", "ea", scores=(20, 3)),
    ]
    hub = repository(train=rows)
    feedback = SHP(hub=hub).load()
    few = [row for row in feedback.rows if row.prompt == user("Question few")]
    assert [(row.chosen, row.rejected) for row in few] == [("comment b", "comment a"), ("comment e", "comment a")]
    assert len(feedback) == 2 + 5
    assert feedback.dropped == {"score ratio below 2": 1, "the post has 5 other pairs": 3}
    assert [row.id for row in feedback.rows] == sorted([row.id for row in feedback.rows], key=lambda i: int(i[6:]))
    again, other = SHP(hub=hub).load(), SHP(hub=hub, seed=1).load()
    assert again == feedback != other
    assert len(SHP(hub=hub, max_pairs_per_prompt=None, min_score_ratio=1).load()) == len(rows)
    shown = SHP(hub=hub).demonstrations().rows
    assert {(row.prompt[0]["content"], row.completion) for row in shown} == {
        ("Question few", "comment e"),
        ("Question crowded", "comment 7"),
    }, "the preferred comment with the most votes, once for each post"


def test_shp_posts_with_the_same_text_are_one_prompt(repository: Repository) -> None:
    rows = [{**shp(post, f"{n}x", ratio=3.0), "history": "posted twice"} for post in "ab" for n in range(4)]
    feedback = SHP(hub=repository(train=rows)).load()
    assert len(feedback) == 5
    assert feedback.dropped == {"the post has 5 other pairs": 3}


OASST = [
    oasst("a", None, "Root"),
    oasst("B", "a", "second", 1),
    oasst("C", "a", "best", 0),
    oasst("D", "a", "worst", 2),
    oasst("E", "a", "deutsch", 3, lang="de"),
    oasst("f", "C", "And then?"),
    oasst("G", "f", "then better", 0),
    oasst("H", "f", "then worse", 1),
    oasst("I", "f", "gone", 2, deleted=True),
    oasst("j", "E", "in English below German"),
    oasst("K", "j", "x", 0),
    oasst("L", "j", "y", 1),
    oasst("M", "j2", "unranked"),
]


def test_oasst(repository: Repository) -> None:
    hub = repository(train=OASST, validation=[oasst("a", None, "V"), oasst("B", "a", "x", 0), oasst("C", "a", "y", 1)])
    source = OpenAssistant(hub=hub)
    feedback = source.load()
    multi = (*user("Root"), {"role": "assistant", "content": "best"}, *user("And then?"))
    assert feedback.rows == [
        Paired("C>B", user("Root"), "best", "second"),
        Paired("B>D", user("Root"), "second", "worst"),
        Paired("G>H", multi, "then better", "then worse"),
    ]
    assert feedback.dropped == {
        "not in the language en": 1,
        "deleted": 1,
        "the conversation before the reply is not whole": 1,
    }
    assert source.demonstrations().rows == [
        Demonstration("C", user("Root"), "best"),
        Demonstration("G", multi, "then better"),
    ], "the preferred reply, not one that was preferred to another"
    heldout = source.heldout()
    assert heldout is not None
    assert [row.chosen for row in heldout.rows] == ["x"]
    assert len(OpenAssistant(hub=hub, language=None).load()) == 5


def test_oasst_pairs_are_neighbours_in_rank_and_demonstrations_of_rank_0(repository: Repository) -> None:
    """Of a reply that is left out, those before and after it are no pair, as in the KTO paper's code."""
    ranked = [oasst(id_, "a", f"text {id_}", rank) for rank, id_ in enumerate("BCDE")]
    gap = [{**row, "lang": "de"} if row["message_id"] == "C" else row for row in ranked]
    no_best = [{**row, "parent_id": "f", "message_id": f"{row['message_id']}2"} for row in ranked]
    no_best[0]["deleted"] = True
    rows = [oasst("a", None, "Root"), *gap, oasst("f", "B", "Next?"), *no_best]
    source = OpenAssistant(hub=repository(train=rows))
    assert [row.id for row in source.load().rows] == ["D>E", "C2>D2", "D2>E2"]
    assert source.load().dropped["the ranks of two replies are not neighbours"] == 1
    assert [row.id for row in source.demonstrations().rows] == ["B"]


def test_helpsteer2(repository: Repository) -> None:
    prompt = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhy?"
    rows = [
        helpsteer2(prompt, "good", 4, correctness=1),
        helpsteer2(prompt, "bad", 3, correctness=4),
        helpsteer2("q", "tied", 2),
        helpsteer2("q", "tied too", 2),
    ]
    hub = repository(train=rows, validation=rows[:2])
    feedback = HelpSteer2(hub=hub).load()
    assert [(row.completion, row.label) for row in feedback.rows] == [
        ("good", True),
        ("bad", False),
        ("tied", False),
        ("tied too", False),
    ]
    assert [message["role"] for message in feedback.rows[0].prompt] == ["user", "assistant", "user"]
    assert turns(prompt)[-1]["content"] == "Why?"
    paired = HelpSteer2(hub=hub, read_as="paired", scores={"margin": 0}).load()
    assert [(row.chosen, row.rejected) for row in paired.rows] == [("good", "bad")]
    assert paired.dropped == {"not two responses with different ratings": 1}
    other = HelpSteer2(hub=hub, read_as="paired", attribute="correctness", scores={"margin": 2}).load()
    assert [row.chosen for row in other.rows] == ["bad"]


def test_helpsteer2_preferences(tmp_path: Path) -> None:
    (tmp_path / "preference.jsonl.gz").write_bytes(
        gzip.compress(
            b"".join(
                json.dumps(helpsteer2_preference(f"p{n}", strength, split)).encode() + b"\n"
                for n, (strength, split) in enumerate([(-2, "train"), (3, "train"), (0, "train"), (1, "val")])
            )
        )
    )
    source = HelpSteer2(path=tmp_path, read_as="preference", scores={"margin": 0}, heldout_split="validation")
    assert source.kind() == "paired"
    assert [(row.prompt, row.chosen) for row in source.load().rows] == [(user("p0"), "first"), (user("p1"), "second")]
    assert source.load().dropped == {"no preference, or too weak a one": 1}
    strong = source.model_copy(update={"scores": ScoreRule(margin=3)}).load()
    assert [row.prompt for row in strong.rows] == [user("p1")]
    assert strong.dropped == {"no preference, or too weak a one": 2}
    heldout = source.heldout()
    assert heldout is not None
    assert [(row.prompt, row.chosen) for row in heldout.rows] == [(user("p3"), "second")]
    clone = tmp_path / "clone"
    (clone / "preference").mkdir(parents=True)
    (tmp_path / "preference.jsonl.gz").rename(clone / "preference/preference.jsonl.gz")
    (clone / "train.jsonl").write_text(json.dumps(helpsteer2("q", "r", 4)))
    assert (
        HelpSteer2(path=clone, read_as="preference").load().rows
        == source.model_copy(update={"path": clone}).load().rows
    )
    assert len(HelpSteer2(path=clone, read_as="preference").load()) == 2
    asked = HelpSteer2(read_as="preference").hub_arguments("validation")
    assert (asked["path"], asked["data_dir"], asked["split"]) == ("nvidia/HelpSteer2", "preference", "train")


def test_feedbackqa(tmp_path: Path) -> None:
    values = [
        feedbackqa("q", "a", "Excellent", "Acceptable"),
        feedbackqa("q", "b", "Bad", "Could be Improved", "Excellent"),
        feedbackqa("q", "c", "Acceptable", "Could be Improved"),
        feedbackqa("q", "a", "Bad", "Bad"),
        feedbackqa("q", " ", "Bad", "Bad"),
    ]
    (tmp_path / "WHO.feedback_test.json.gz").write_bytes(gzip.compress(json.dumps(values).encode()))
    feedback = FeedbackQA(path=tmp_path).load()
    assert feedback.rows == [
        Binary("WHO.feedback_test:1", user("q"), "a", True),
        Binary("WHO.feedback_test:2", user("q"), "b", False),
    ]
    assert feedback.dropped == {
        "as many ratings for the answer as against it": 1,
        "the question has had this answer already": 1,
        "empty question or answer": 1,
    }
    (tmp_path / "a.json").write_text(json.dumps([feedbackqa("q", "a", "Great")]))
    with pytest.raises(FeedbackError, match="unknown rating 'Great'; known: Excellent"):
        FeedbackQA(path=tmp_path / "a.json").load()


def test_gsm8k_solutions(tmp_path: Path) -> None:
    value = gsm8k("1 + 1?", **{"175b_finetuning": True, "175b_verification": True})
    value["6b_verification"]["solution"] = ""
    (tmp_path / "s.jsonl").write_text(json.dumps(value) + "\n")
    feedback = GSM8KSolutions(path=tmp_path / "s.jsonl").load()
    assert feedback.rows == [
        Binary("s:1/6b_finetuning", user("1 + 1?"), "by 6b_finetuning", False),
        Binary("s:1/175b_finetuning", user("1 + 1?"), "by 175b_finetuning", True),
        Binary("s:1/175b_verification", user("1 + 1?"), "by 175b_verification", True),
    ]
    assert feedback.dropped == {"empty completion": 1}


@pytest.mark.parametrize(("source", "rows"), [
    (FeedbackQA, [feedbackqa("q", "a", "Excellent"), feedbackqa("r", "b", "Bad")]),
    (GSM8KSolutions, [gsm8k("1 + 1?", **{"6b_finetuning": True})]),
])  # fmt: skip
def test_sets_that_are_plain_files_are_read_through_datasets(
    source: type[Any], rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is where they are published; what is there is read by the builder that is asked for."""
    asked = source().hub_arguments("train")
    addresses = {
        FeedbackQA: "hf://datasets/McGill-NLP/feedbackQA@main/data/feedback_train.json",
        GSM8KSolutions: (
            "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/"
            "example_model_solutions.jsonl"
        ),
    }
    assert asked["data_files"] == {"train": addresses[source]}
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "published.json"
    file.write_text("\n".join(map(json.dumps, rows)) if source is GSM8KSolutions else json.dumps(rows))
    moved = {**asked, "data_files": {"train": str(file)}}
    monkeypatch.setattr(source, "hub_arguments", lambda self, split: moved)
    assert source().load().rows[0].id.split("/")[0] == "train:1"
    assert {row.label for row in source().load().rows} == {True, False}


def test_ultrachat(repository: Repository) -> None:
    hub = repository(train_sft=[ultrachat("a", "b", "c", "d"), ultrachat("only the user")])
    feedback = UltraChat(hub=hub).load()
    assert [(len(row.prompt), row.completion) for row in feedback.rows] == [(1, "b"), (3, "d")]
    assert feedback.dropped == {"no turn of the assistant": 1}
    assert [row.completion for row in UltraChat(hub=hub, turns="last").load().rows] == ["d"]


def test_alpaca(repository: Repository) -> None:
    hub = repository(train=[alpaca("Add.", "3", "1 2"), alpaca("Sing.", "La"), alpaca("Empty.", " ")])
    feedback = Alpaca(hub=hub).load()
    assert feedback.rows == [
        Demonstration("train:1", user("Add.\n\n1 2"), "3"),
        Demonstration("train:2", user("Sing."), "La"),
    ]
    assert feedback.dropped == {"empty completion": 1}


NAMES = sorted(file.stem for file in (ROOT / "conf/feedback").glob("*.yaml"))
NEEDS = {
    "jsonl": ["feedback.path=pyproject.toml"],
    "table": ["feedback.path=pyproject.toml"],
    "hub": ["feedback.hub=user/set"],
    "mixture": ["+feedback@feedback.parts.hh=hh_rlhf", "+feedback@feedback.parts.qa=feedbackqa",
                "feedback.parts.qa.heldout_fraction=0", "feedback.weights={hh: 1, qa: 2}"],
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_composes_and_has_every_field_that_training_asks_about(name: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        node = compose("config", [f"feedback={name}", *NEEDS.get(name, [])])
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(node.feedback, resolve=True)
    assert isinstance(values, dict)
    source = build(values, FeedbackSource, "feedback")
    assert {"keep_desirable", "keep_undesirable", "one_completion_per_prompt", "label_noise", "decontaminate"} <= set(
        values
    )
    held_out = node.evaluation.name == "heldout"
    assert held_out == (not name.startswith("sandbox") and name != "on_policy"), "on policy it is the source that does"
    assert not held_out or source.holds_out


def test_another_set_is_refused_with_the_place(repository: Repository) -> None:
    hub = repository(train=[kto_mix("p", "c", True)])
    for source in (HHRLHF, SHP, OpenAssistant, Alpaca, UltraFeedback, HelpSteer2):
        split = {"split": "train"} if source is UltraFeedback else {}
        with pytest.raises(FeedbackError, match=r"\(train\), row 1: expected an object with .*is it the right set"):
            source(hub=hub, **split).load()


def test_the_commit_is_what_the_hub_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` names the builder of a repository after the commit that it resolved the revision to."""
    commit = "09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa"
    asked = {}

    def builder(**arguments: Any) -> Any:
        asked.update(arguments)
        return SimpleNamespace(hash=commit)

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    assert HHRLHF(data_dir="helpful-base").origin()["commit"] == commit
    assert asked == {"path": "Anthropic/hh-rlhf", "name": None, "data_dir": "helpful-base", "revision": "main"}


def test_the_hub_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(FeedbackError, match=r"cannot load nobody/nothing \(train\) from the hub.*give feedback.path"):
        HHRLHF(hub="nobody/nothing").load()


def test_two_ways_to_hold_out_are_refused(tmp_path: Path) -> None:
    target = "kto_bench.feedback.sources.hh_rlhf.HHRLHF"
    with pytest.raises(ConfigError, match=r"heldout_split: test and heldout_fraction: 0.1 are two ways"):
        build({"_target_": target, "heldout_split": "test", "heldout_fraction": 0.1}, FeedbackSource, "feedback")
    with pytest.raises(ConfigError, match=r"heldout_split: 'train' is trained on"):
        build({"_target_": target, "heldout_split": "train"}, FeedbackSource, "feedback")
    with pytest.raises(ConfigError, match=r"feedback.path: .*there is nothing"):
        build({"_target_": target, "path": str(tmp_path / "none")}, FeedbackSource, "feedback")
    (tmp_path / "a.jsonl").write_text(json.dumps({"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")}))
    one_file = {"_target_": target, "path": str(tmp_path), "heldout_split": "test"}
    with pytest.raises(ConfigError, match=r"no files of its own for 'test'; choose heldout_split=null"):
        build(one_file, FeedbackSource, "feedback")
    (tmp_path / "train.jsonl").write_text((tmp_path / "a.jsonl").read_text())
    with pytest.raises(ConfigError, match=r"no files of its own for 'test'"):  # all files are not a test split
        build(one_file, FeedbackSource, "feedback")
    (tmp_path / "train.jsonl").unlink()
    datasets.Dataset.from_list([{"chosen": "x", "rejected": "y"}]).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ConfigError, match=r"saved has no files of its own for 'test'"):
        build({**one_file, "path": str(tmp_path / "saved")}, FeedbackSource, "feedback")
    target = "kto_bench.feedback.sources.gsm8k_solutions.GSM8KSolutions"
    with pytest.raises(ConfigError, match=r"heldout_split: 'test': the set is one file without splits"):
        build({"_target_": target, "heldout_split": "test"}, FeedbackSource, "feedback")
    (tmp_path / "test.jsonl").write_text(json.dumps({"chosen": dialogue("c", "b"), "rejected": dialogue("c", "d")}))
    source = build(one_file, FeedbackSource, "feedback")
    assert [row.prompt for row in (source.heldout() or source.load()).rows] == [user("c")]
    (tmp_path / "train.jsonl").write_text((tmp_path / "a.jsonl").read_text())
    source = build(one_file, FeedbackSource, "feedback")
    before = source.identity()
    more = [json.dumps({"chosen": dialogue(text, "b"), "rejected": dialogue(text, "d")}) for text in "cef"]
    (tmp_path / "test.jsonl").write_text("\n".join(more))
    assert source.identity() != before, "what is held out is in the fingerprint"
    limited = build({**one_file, "limit": 1}, FeedbackSource, "feedback").heldout()
    assert limited is not None
    assert len(limited) == 3, "the limit is of what is trained on: fewer held-out prompts would let others through"


def test_identity_is_the_files_content_or_the_revision(tmp_path: Path) -> None:
    row = json.dumps({"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")})
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(row)
    one, two = HHRLHF(path=tmp_path / "one"), HHRLHF(path=tmp_path / "two", name="other", revision="x")
    assert one.identity() == two.identity()
    assert one.origin() == {"files": [["a.jsonl", hashlib.sha256(row.encode()).hexdigest()]]} == two.origin()
    (tmp_path / "two/a.jsonl").write_text(row + "\n" + row)
    assert one.identity() != two.identity()
    assert HHRLHF().identity() != HHRLHF(revision="09be8c5").identity()
    assert HHRLHF().identity() == HHRLHF(label_noise=0.1, keep_desirable=0.5).identity()


def test_the_source_in_the_documentation_works(tmp_path: Path) -> None:
    _, _, after = (ROOT / "docs/feedback.md").read_text(encoding="utf-8").partition("```python\n")
    file = (ROOT / "kto_bench/feedback/sources/alpaca.py").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "kto_bench.example"}
    exec("\n".join(line for line in file.splitlines() if line.startswith(("from ", "import "))), names)
    exec(after.partition("```")[0], names)
    rows = [{"question": "q", "answer": "a", "thumb": thumb} for thumb in ("up", "none", "down")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names["Ratings"].model_rebuild(_types_namespace=names)
    feedback = names["Ratings"](path=tmp_path).load()
    assert [row.label for row in feedback.rows] == [True, False]
    assert feedback.dropped == {"no thumb": 1}
