"""A stage for each task of a suite: what is done is kept, what is added is run, and no checkpoint gets another's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose
from places import ROOT
from small_run import MakeConfig
from tiny import tiny_model, tiny_tokenizer

from kto_bench.component import ConfigError
from kto_bench.config import Config, resolve
from kto_bench.evaluation.benchmarks.policy_lm import PolicyLM
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.run import describe, execute

EVALUATIONS = ROOT / "conf" / "evaluation"
DATA = """\
from datasets import Dataset, DatasetDict

def load(name=None, most=8, **options):
    rows = [{"question": f"w{i} w{i + 7}", "choices": ["w1", "w2", "w3"], "answer": i % 3} for i in range(most)]
    return DatasetDict({"test": Dataset.from_list(rows)})
"""
TASK = """\
task: NAME
custom_dataset: !function data.load
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
GROUP = """\
group: three
task: [one, two, third]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
metadata: {version: 5}
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.py").write_text(DATA)
    for name in ("one", "two", "third"):
        (folder / f"{name}.yaml").write_text(TASK.replace("NAME", name))
    (folder / "group.yaml").write_text(GROUP)
    return folder


def asked(tasks: Path, *names: str, **fields: Any) -> list[str]:
    wanted = "".join(f", {name}: {value}" for name, value in fields.items())
    node = f"{{tasks: [{','.join(names)}], include_path: {tasks}, batch_size: 8{wanted}}}"
    return ["loss=none", "evaluation.prompts=null", "evaluation.judge=null", f"evaluation.benchmarks={node}"]


def stages(config: Config) -> dict[str, str]:
    return {label: key for label, key in describe(config)[0].fingerprints.items() if label.startswith("benchmark/")}


def record_of(config: Config) -> Path:
    return describe(config)[1].folder


def test_adding_a_task_to_a_finished_run_runs_only_that(make: MakeConfig, tasks: Path) -> None:
    before = make(*asked(tasks, "one"))
    assert execute(before) == "done"
    after = make(*asked(tasks, "one", "two"))
    assert list(stages(after)) == ["benchmark/one", "benchmark/two"]
    assert execute(after) == "done"
    timing = json.loads((record_of(after) / "timing.json").read_text())["stages"]
    assert (timing["benchmark/one"]["cached"], timing["benchmark/two"]["cached"]) == (True, False)
    scores = json.loads((record_of(after) / "scores.json").read_text())["benchmarks"]
    assert list(scores) == ["one", "two"]
    rows = [json.loads(line) for line in (record_of(after) / "benchmarks.jsonl").read_text().splitlines()]
    assert [(row["task"], row["doc_id"]) for row in rows] == [(task, i) for task in ("one", "two") for i in range(8)]


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"num_fewshot": "{one: 1}"}, {"benchmark/one"}),
        ({"num_fewshot": 1}, {"benchmark/one", "benchmark/two"}),
        ({"metrics": "{two: acc}"}, {"benchmark/two"}),
        ({"fewshot_splits": "{two: test}"}, {"benchmark/two"}),
        ({"max_new_tokens": 5}, {"benchmark/one", "benchmark/two"}),
        ({"suite": "mine", "suite_version": 3}, set()),
        ({"num_fewshot": "{third: 1}"}, set()),  # of a task that is not asked for
    ],
)
def test_a_task_depends_on_what_concerns_it(make: MakeConfig, tasks: Path, fields: Any, changed: set[str]) -> None:
    plain, other = stages(make(*asked(tasks, "one", "two"))), stages(make(*asked(tasks, "one", "two", **fields)))
    assert {label for label in plain if plain[label] != other[label]} == changed


def test_two_checkpoints_are_never_served_each_other_s_answers(
    make: MakeConfig, tasks: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Neither by the artifacts, nor by the model that stays loaded from task to task; in either order."""
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    model = tiny_model()
    torch.manual_seed(1)
    for weights in model.parameters():
        weights.data = torch.randn_like(weights) * 0.5
    model.save_pretrained(other)
    rows: dict[Path, list[Any]] = {}
    for round_ in ("first", "again"):
        for path in (checkpoint, other):
            config = make(*asked(tasks, "one", "two"), f"model.path={path}", f"sweep={round_}")
            assert execute(config) == "done"  # the second time round from the artifacts
            found = [json.loads(line) for line in (record_of(config) / "benchmarks.jsonl").read_text().splitlines()]
            assert rows.setdefault(path, found) == found
    assert rows[checkpoint] != rows[other]
    from kto_bench.evaluation.generation.loaded import forget, loaded

    try:  # within a run, as for the checkpoints of several steps
        heads = [loaded(path)[0].lm_head.weight.detach().cpu() for path in (checkpoint, other, checkpoint)]
    finally:
        forget()
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])
    alone, _ = Benchmarks(tasks=("one",), include_path=str(tasks)).run(model, tiny_tokenizer(), seed=0)
    assert alone["one"]["value"] == pytest.approx(sum(row["value"] for row in rows[other][:8]) / 8)


def test_a_checkpoint_is_loaded_once_for_all_tasks(
    make: MakeConfig, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kto_bench.evaluation.generation import loaded

    loads: list[Path] = []
    load_policy = loaded.load_policy
    monkeypatch.setattr(loaded, "load_policy", lambda folder: (loads.append(folder), load_policy(folder))[1])
    assert execute(make(*asked(tasks, "one", "two", "third"))) == "done"
    assert len(loads) == 1
    assert not loaded._last  # once the run is over nothing stays in memory


def test_what_is_done_of_a_group_survives(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three tasks breaks off; taken up again, the first is not asked once more, and nothing differs."""
    model, tokenizer, saved = tiny_model(), tiny_tokenizer(), tmp_path / "saved"
    benchmarks = Benchmarks(tasks=("three",), include_path=str(tasks), num_fewshot=2)
    whole = benchmarks.run(model, tokenizer, seed=3)
    requests: list[int] = []
    loglikelihood = PolicyLM.loglikelihood

    def counted(self: PolicyLM, asked: list[Any], disable_tqdm: bool = True) -> Any:
        requests.append(len(asked))
        if len(requests) == 2:
            raise KeyboardInterrupt
        return loglikelihood(self, asked, disable_tqdm)

    monkeypatch.setattr(PolicyLM, "loglikelihood", counted)
    with pytest.raises(KeyboardInterrupt):
        benchmarks.run(model, tokenizer, seed=3, saved=saved)
    assert [path.name for path in saved.iterdir()] == ["one.json"]
    again = benchmarks.run(model, tokenizer, seed=3, saved=saved)
    assert requests == [24, 24, 24, 24]  # one; two, in vain; two; third
    assert again == whole


def test_a_group_is_scored_as_its_tasks_together(tasks: Path) -> None:
    scores, rows = Benchmarks(tasks=("three",), include_path=str(tasks), limit=5).run(tiny_model(), tiny_tokenizer(), 0)
    assert (scores["three"]["n"], scores["three"]["version"], scores["three"]["num_fewshot"]) == (15, "5", 0)
    assert scores["three"]["value"] == pytest.approx(sum(row["value"] for row in rows) / 15)
    assert {row["group"] for row in rows} == {"three"}


@pytest.mark.parametrize("by_size", [True, False])
def test_tasks_of_unequal_size_count_as_the_group_says(tasks: Path, by_size: bool) -> None:
    (tasks / "third.yaml").write_text(TASK.replace("NAME", "third") + "dataset_kwargs: {most: 2}\n")
    (tasks / "group.yaml").write_text(GROUP.replace("true", str(by_size).lower()))
    scores, rows = Benchmarks(tasks=("three",), include_path=str(tasks)).run(tiny_model(), tiny_tokenizer(), 0)
    values = {task: [row["value"] for row in rows if row["task"] == task] for task in ("one", "two", "third")}
    assert [len(found) for found in values.values()] == [8, 8, 2]
    means = [sum(found) / len(found) for found in values.values()]
    assert scores["three"]["value"] == pytest.approx(sum(map(sum, values.values())) / 18 if by_size else sum(means) / 3)
    assert means[2] not in means[:2]


def test_a_tag_is_scored_as_the_mean_of_its_tasks(tasks: Path) -> None:
    """As the KTO paper's TydiQA is, which lm-eval has as one task per language under a tag."""
    for name in ("one", "third"):
        more = "tag: several\ndataset_kwargs: {most: 2}\n" if name == "third" else "tag: several\n"
        (tasks / f"{name}.yaml").write_text(TASK.replace("NAME", name) + more)
    scores, rows = Benchmarks(tasks=("several",), include_path=str(tasks)).run(tiny_model(), tiny_tokenizer(), 0)
    assert set(scores) == {"several", "one", "third"}
    one, third = scores["one"], scores["third"]
    assert one["value"] != third["value"]
    assert scores["several"]["value"] == pytest.approx((one["value"] + third["value"]) / 2)
    assert scores["several"]["stderr"] == pytest.approx((one["stderr"] ** 2 + third["stderr"] ** 2) ** 0.5 / 2)
    assert (scores["several"]["metric"], scores["several"]["n"], scores["several"]["version"]) == ("acc", 10, None)
    assert {row["group"] for row in rows} == {"several"}
    (tasks / "third.yaml").write_text((tasks / "third.yaml").read_text().replace("metric: acc", "metric: acc_norm"))
    scores, _ = Benchmarks(tasks=("several",), include_path=str(tasks)).run(tiny_model(), tiny_tokenizer(), 0)
    assert set(scores) == {"one", "third"}  # which have no metric in common


def test_what_is_no_mean_over_documents_has_no_rows(tasks: Path) -> None:
    """LAMBADA's perplexity: lm-eval keeps log-likelihoods per document under that name."""
    (tasks / "one.yaml").write_text(
        TASK.replace("NAME", "one")
        .replace("multiple_choice", "loglikelihood")
        .replace("doc_to_choice: choices\ndoc_to_target: answer", "doc_to_target: w3")
        .replace("metric_list: [", "metric_list: [{metric: perplexity, aggregation: perplexity}, ")
    )
    scores, rows = Benchmarks(tasks=("one",), include_path=str(tasks)).run(tiny_model(), tiny_tokenizer(), 0)
    assert (scores["one"]["metric"], scores["one"]["n"]) == ("perplexity", 8)
    assert scores["one"]["value"] > 1
    assert [row["metric"] for row in rows] == ["acc"] * 8


def test_no_document_is_its_own_example(tasks: Path) -> None:
    """lm-eval shows the asked document with its answer where examples come from the scored split by default."""
    text = TASK.replace("NAME", "one").replace("fewshot_split: test\n", "")
    (tasks / "one.yaml").write_text(text)
    contexts: list[str] = []

    class Listening(PolicyLM):
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
            contexts.extend(request.args[0] for request in requests)
            return super().loglikelihood(requests, disable_tqdm)

    from kto_bench.evaluation.benchmarks import policy_lm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy_lm, "PolicyLM", Listening)
        benchmarks = Benchmarks(tasks=("one",), include_path=str(tasks), num_fewshot=7)
        benchmarks.run(tiny_model(), tiny_tokenizer(), seed=0)
    assert len(contexts) == 24
    for context in contexts:
        questions = [part.split("<assistant>")[0] for part in context.split("<user>")[1:]]
        assert len(questions) == 8
        assert questions[-1] not in questions[:-1]


def test_bad_choices_are_refused_before_anything_runs(make: MakeConfig, tasks: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmarks.tasks: 'one' is in both 'one' and 'three'"):
        make(*asked(tasks, "one", "three"))
    with pytest.raises(ConfigError, match=r"benchmarks.tasks: .* a task is named twice"):
        make(*asked(tasks, "one", "one"))
    with pytest.raises(ConfigError, match=r"benchmarks.num_fewshot: 'onne' is no task, .* \(near: one\)"):
        make(*asked(tasks, "one", num_fewshot="{onne: 2}"))
    with pytest.raises(ConfigError, match=r"evaluation.data_root: .* there is no such folder"):
        make(*asked(tasks, "one"), "evaluation.data_root=no/such/folder")
    with pytest.raises(ConfigError, match=r"evaluation.allow_code_execution: 'humaneval' runs programs"):
        make(*asked(tasks, "humaneval"))


def test_a_setting_for_a_part_of_a_group_is_not_passed_over(tasks: Path) -> None:
    (tasks / "outer.yaml").write_text("group: outer\ntask: [three]\nmetadata: {version: 1}\n")
    Benchmarks(tasks=("outer",), include_path=str(tasks), metrics={"three": "acc"}).check()
    for field in ({"num_fewshot": {"three": 2}}, {"splits": {"three": "test"}}):
        with pytest.raises(ConfigError, match=r"'three' is only a part of .* one by one \(one, third, two"):
            Benchmarks(tasks=("outer",), include_path=str(tasks), **field).check()


def test_the_leaderboard_s_ifeval_counts_sentences_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from kto_bench.evaluation.benchmarks import sentences

    monkeypatch.setattr(sentences, "_installed", lambda root: False)
    for task in ("ifeval", "leaderboard_ifeval"):
        with pytest.raises(ConfigError, match=r"untrained_sentences: .* punkt_tab, which is not installed"):
            Benchmarks(tasks=(task,)).check()
        ((_, depends),) = Benchmarks(tasks=(task,), untrained_sentences=True).parts().values()
        assert depends["sentences"] == "untrained"


def test_a_task_that_runs_code_is_not_run_where_nobody_allowed_it(tasks: Path) -> None:
    """Also where the configuration's check was gone around."""
    (tasks / "one.yaml").write_text(TASK.replace("NAME", "one") + "unsafe_code: true\n")
    with pytest.raises(EvaluationError, match=r"one: .*unsafe"):
        Benchmarks(tasks=("one",), include_path=str(tasks)).run(tiny_model(), tiny_tokenizer(), seed=0)


def test_answers_are_capped_and_the_record_says_so(tasks: Path) -> None:
    (tasks / "one.yaml").write_text(
        TASK.replace("NAME", "one")
        .replace("multiple_choice", "generate_until")
        .replace("doc_to_choice: choices\n", "generation_kwargs: {until: [w9], max_gen_toks: 900}\n")
        .replace("metric: acc", "metric: exact_match")
    )

    def lengths(**fields: Any) -> Any:
        benchmarks = Benchmarks(tasks=("one",), include_path=str(tasks), limit=1, **fields)
        return benchmarks.run(tiny_model(), tiny_tokenizer(), seed=0)[0]["one"]["max_new_tokens"]

    assert lengths(max_new_tokens=3) == {"asked": 900, "allowed": 3}
    assert lengths() == {"asked": 900, "allowed": 128}  # half of 256 positions, where lm-eval would refuse to begin


@pytest.mark.usefixtures("make")
@pytest.mark.parametrize("name", sorted(path.stem for path in EVALUATIONS.glob("*.yaml")))
def test_what_every_evaluation_has_is_set_without_plus_signs(name: str) -> None:
    """Of any of them, by a plain override; and it is written in one file."""
    common = {"data_root": "there", "allow_code_execution": True, "at_steps": [3]}
    given = [f"evaluation.{field}={value}" for field, value in common.items()]
    node = compose("config", ["tracking=none", f"evaluation={name}", *given]).evaluation
    assert {field: node[field] for field in common} == common
    assert node.name == name
    text = (EVALUATIONS / f"{name}.yaml").read_text()
    assert not [field for field in common if f"\n{field}:" in text]
    drawn = [f"evaluation.generation.{field}" for field in ("backend=vllm", "max_prompt_tokens=7")]
    generation = compose("config", ["tracking=none", f"evaluation={name}", *drawn]).evaluation.generation
    assert (generation.backend, generation.max_prompt_tokens) == ("vllm", 7)


SUITES = ("kto_paper", "open_llm", "ifeval", "language", "public_sets", "sandbox")


@pytest.mark.parametrize("suite", SUITES)
def test_suites_are_named_versioned_and_known_to_lm_eval(
    make: MakeConfig, suite: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kto_bench.evaluation.benchmarks import sentences

    monkeypatch.setattr(sentences, "_installed", lambda root: True)
    model = ["model=hub", f"model.path={checkpoint}", "loss=none", "start=base", "tracking=none"]
    config = resolve(compose("config", [*model, f"evaluation={suite}", "evaluation.allow_code_execution=true"]))
    benchmarks = config.evaluation.benchmarks
    assert benchmarks is not None
    assert (benchmarks.suite, benchmarks.suite_version) == (suite, 1)
    assert set(stages(config)) == {f"benchmark/{task}" for task in benchmarks.tasks}
    _, plans = benchmarks._plans(None)
    for field in (benchmarks.num_fewshot, benchmarks.splits, benchmarks.metrics):
        assert set(field if isinstance(field, dict) else ()) <= set(benchmarks.tasks)
    if isinstance(benchmarks.num_fewshot, dict):  # the numbers that the suite states are those that are asked
        for entry, shots in benchmarks.num_fewshot.items():
            assert {plan.shots for plan in plans[entry].values()} == {shots}
