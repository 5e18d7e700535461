"""Local files stand in for the hub's data sets, split by split, or are refused before anything is computed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from tiny_checkpoints import build_model, build_tokenizer

from kto_bench.component import ConfigError
from kto_bench.evaluation.benchmarks.suite import Benchmarks
from kto_bench.evaluation.benchmarks.task_data import LocalSet, find, read_rows

ROWS = [{"question": f"q{i}", "answer": i} for i in range(3)]


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS))


def write_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))


def write_parquet(path: Path) -> None:
    Dataset.from_list(ROWS).to_parquet(path)


def save(path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(path)


LAYOUTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "owner, name and configuration": ("owner/set/main/test.jsonl", write_jsonl),
    "name and configuration": ("set/main/test.jsonl", write_jsonl),
    "no configuration": ("set/test.jsonl", write_jsonl),
    "JSON": ("set/main/test.json", write_json),
    "gzip": ("set/main/test.jsonl.gz", write_gzip),
    "Parquet": ("set/main/test.parquet", write_parquet),
    "the hub's Parquet": ("set/main/test-00000-of-00001.parquet", write_parquet),
    "a data folder": ("set/main/data/test.parquet", write_parquet),
    "save_to_disk": ("set/main/test", save),
    "a file per configuration": ("set/main.json", write_json),
    "save_to_disk without a split": ("set/main", save),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    name, write = LAYOUTS[layout]
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    write(path)
    found = find(tmp_path, "owner/set", "main")
    assert list(found.load(["test"])["test"]) == ROWS


def test_a_download_of_the_hub_s_repository(tmp_path: Path) -> None:
    """What ``hf download --local-dir`` leaves: the files, what tells about them, and a cache of its own."""
    for name, inner in (("humaneval", "openai_humaneval"), ("instructions", ".")):
        folder = tmp_path / "owner" / name
        (folder / inner).mkdir(parents=True)
        (folder / ".cache" / "huggingface").mkdir(parents=True)
        (folder / "dataset_infos.json").write_text('{"default": {}}')
        (folder / "README.md").touch()
    write_parquet(tmp_path / "owner" / "humaneval" / "openai_humaneval" / "test-00000-of-00001.parquet")
    write_jsonl(tmp_path / "owner" / "instructions" / "input_data.jsonl")
    assert list(find(tmp_path, "owner/humaneval", None).load(["test"])["test"]) == ROWS
    assert list(find(tmp_path, "owner/instructions", None).load(["train"])["train"]) == ROWS


def test_one_file_does_not_stand_for_two_configurations(tmp_path: Path) -> None:
    """All of MMLU right in its folder would be asked 57 times over."""
    (tmp_path / "mmlu").mkdir()
    write_jsonl(tmp_path / "mmlu" / "test.jsonl")
    Benchmarks(tasks=("mmlu_anatomy",)).check(tmp_path)
    with pytest.raises(
        ConfigError, match=r"data_root: .*mmlu would be read for both mmlu_anatomy \(anatomy\) and mmlu_ast"
    ):
        Benchmarks(tasks=("mmlu_anatomy", "mmlu_astronomy")).check(tmp_path)


def test_a_saved_dictionary_of_splits(tmp_path: Path) -> None:
    DatasetDict({split: Dataset.from_list(ROWS) for split in ("train", "test")}).save_to_disk(tmp_path / "set")
    found = find(tmp_path, "owner/set", None)
    assert set(found.splits) == {"train", "test"}


def test_the_shards_of_a_split_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for shard in range(2):
        Dataset.from_list([{"shard": shard}]).to_parquet(tmp_path / "set" / f"train-0000{shard}-of-00002.parquet")
    assert list(find(tmp_path, "owner/set", None).load(["train"])["train"]) == [{"shard": 0}, {"shard": 1}]


def test_another_configuration_is_never_served(tmp_path: Path) -> None:
    (tmp_path / "set" / "easy").mkdir(parents=True)
    write_jsonl(tmp_path / "set" / "easy" / "test.jsonl")
    with pytest.raises(ConfigError, match=r"no data set owner/set \(hard\): there is none in .*owner/set, .*set/hard"):
        find(tmp_path, "owner/set", "hard")


def test_the_digest_is_of_the_content_of_the_splits_that_are_read(tmp_path: Path) -> None:
    def digest(root: Path) -> str:
        return find(root, "owner/set", None).digest(["test"])

    for root in (tmp_path / "here", tmp_path / "there"):
        (root / "set").mkdir(parents=True)
        write_jsonl(root / "set" / "test.jsonl")
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    write_jsonl(tmp_path / "there" / "set" / "train.jsonl")
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    (tmp_path / "there" / "set" / "test.jsonl").write_text(json.dumps({**ROWS[0], "answer": 7}) + "\n")
    assert digest(tmp_path / "here") != digest(tmp_path / "there")


def test_a_task_s_stage_depends_on_the_content_of_its_files(tmp_path: Path) -> None:
    def depends(root: Path) -> dict[str, Any]:
        ((_, found),) = Benchmarks(tasks=("mmlu_anatomy",), num_fewshot=0).parts(root).values()
        return found

    for root in (tmp_path / "here", tmp_path / "there"):
        (root / "mmlu" / "anatomy").mkdir(parents=True)
        write_jsonl(root / "mmlu" / "anatomy" / "test.jsonl")
    assert depends(tmp_path / "here") == depends(tmp_path / "there")
    (tmp_path / "there" / "mmlu" / "anatomy" / "test.jsonl").write_text(json.dumps({**ROWS[0], "answer": 7}) + "\n")
    assert depends(tmp_path / "here") != depends(tmp_path / "there")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", b'{"a": 1}\n{"a":', r"test.jsonl cannot be read"),
        ("test.json", b'"text"', r"neither a list of objects nor"),
        ("test.json", b'{"rows": []}', r"neither a list of objects nor"),
        ("test.jsonl.gz", b"no gzip", r"test.jsonl.gz cannot be read"),
        ("test.jsonl", b"", r"holds no rows"),
    ],
)
def test_broken_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"evaluation.data_root: .*" + message):
        LocalSet(tmp_path, {"test": (tmp_path / name,)}).load(["test"])


def test_lines_are_split_on_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"text": "one\u2028two"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(path) == [{"text": "one\u2028two"}]


def test_google_s_boolq_and_the_authors_truthfulqa_become_the_hub_s(tmp_path: Path) -> None:
    (tmp_path / "boolq").mkdir()
    (tmp_path / "boolq" / "validation.jsonl").write_text(
        json.dumps({"question": "is it", "answer": True, "passage": "it is"}) + "\n"
    )
    (row,) = find(tmp_path, "aps/super_glue", "boolq").load(["validation"])["validation"]
    assert (row["label"], row["idx"]) == (1, 0)
    answers = {"best_answer": "b", "correct_answers": ["a", "b"], "incorrect_answers": ["c", "d"]}
    (tmp_path / "truthfulqa").mkdir()
    (tmp_path / "truthfulqa" / "truthfulqa-multi.json").write_text(json.dumps([{"en": {"question": "q", **answers}}]))
    (row,) = find(tmp_path, "truthfulqa/truthful_qa", "multiple_choice").load(["validation"])["validation"]
    assert row["mc1_targets"] == {"choices": ["b", "c", "d"], "labels": [1, 0, 0]}
    assert row["mc2_targets"] == {"choices": ["a", "b", "c", "d"], "labels": [1, 1, 0, 0]}


def test_a_missing_split_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ai2_arc" / "ARC-Easy").mkdir(parents=True)
    write_jsonl(tmp_path / "ai2_arc" / "ARC-Easy" / "validation.jsonl")

    def check(**fields: Any) -> None:
        Benchmarks(tasks=("arc_easy",), **fields).check(tmp_path)

    with pytest.raises(ConfigError, match=r"ARC-Easy lacks the split 'test', which arc_easy is scored on; it has val"):
        check()
    chosen = {"arc_easy": "validation"}
    check(splits=chosen)
    with pytest.raises(ConfigError, match=r"lacks the split 'train', from which arc_easy draws its few-shot examples"):
        check(splits=chosen, num_fewshot=5)
    check(splits=chosen, num_fewshot=5, fewshot_splits=chosen)
    with pytest.raises(ConfigError, match=r"has no data set baber/piqa: there is none in"):
        Benchmarks(tasks=("piqa",)).check(tmp_path)


# One document of each of the real sets, under lm-eval's own definition: task -> documents of the whole split.
REAL = {
    "arc_easy": 570,
    "arc_challenge": 299,
    "piqa": 1838,
    "winogrande": 1267,
    "boolq": 3270,
    "openbookqa": 500,
    "sciq": 1000,
    "truthfulqa_mc1": 817,
    "truthfulqa_mc2": 817,
    "gsm8k_cot": 1319,
    "mmlu_anatomy": 135,
    "bbh_cot_fewshot_snarks": 178,
    "ifeval": 541,
    "humaneval": 164,
}


def test_the_real_sets_run_under_lm_eval_s_own_definitions(shared: Callable[[str], Path]) -> None:
    root = shared("benchmarks")
    validation = dict.fromkeys(("arc_easy", "arc_challenge", "openbookqa", "sciq"), "validation")
    benchmarks = Benchmarks(
        tasks=tuple(REAL),
        splits=validation,
        num_fewshot={"mmlu_anatomy": 1},
        limit=1,
        max_new_tokens=2,
        apply_chat_template=False,
        untrained_sentences=True,
    )
    with pytest.raises(ConfigError, match=r"allow_code_execution: 'humaneval' runs programs that the model wrote"):
        benchmarks.check(root)
    benchmarks.check(root, allow_code_execution=True)
    scores, _ = benchmarks.run(
        build_model("llama", positions=256),
        build_tokenizer(None),
        seed=0,
        data_root=root,
        allow_code_execution=True,
    )
    assert set(scores) == set(REAL)
    for task in REAL:
        assert scores[task]["n"] == 1
        assert scores[task]["data_sha256"]
    assert scores["mmlu_anatomy"]["num_fewshot"] == 1
    assert scores["bbh_cot_fewshot_snarks"]["num_fewshot"] == 3
    assert scores["ifeval"]["max_new_tokens"] == {"asked": 1280, "allowed": 2}
    assert scores["humaneval"]["code_execution"]["network"][0] in ("namespace", "audit hook")
    _, plans = benchmarks._plans(root)
    for task, expected in REAL.items():
        plan = plans[task][task]
        assert len(plan.dataset()[plan.scored]) == expected


def test_humaneval_s_own_solutions_pass_and_others_do_not(shared: Callable[[str], Path]) -> None:
    """The whole way of one task: lm-eval's filter and metric over the published file, with our execution."""
    from kto_bench.evaluation.benchmarks.task_loading import load
    from kto_bench.evaluation.quiet import quiet

    root = shared("benchmarks")
    benchmarks = Benchmarks(tasks=("humaneval",))
    with quiet():
        manager, plans = benchmarks._plans(root)
        task = load(manager, "humaneval", plans["humaneval"], root, False)["tasks"]["humaneval"]
    documents = task.eval_docs.select(range(0, 164, 40))
    for document in documents:
        for answer, expected in ((document["canonical_solution"], 1.0), ("    pass\n", 0.0)):
            built = [document["prompt"] + answer]
            assert task.process_results(document, [built])["pass@1"] == expected
