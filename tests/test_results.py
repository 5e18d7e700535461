"""Records are read as they are described in kto_bench.results, whatever an interrupted sweep left behind."""

import json
import subprocess
import sys

import pytest

from kto_bench.results import RecordError, Sweep, available, flatten, varying


def write(folder, name, *rows, lines=False):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows[0])
    (folder / name).write_text(text, encoding="utf-8")


def run(results, loss="kto", start="sft", seed=0, state="done", sweep="s", suffix="aa", labels=None, config=None):
    name = f"{loss}-{start}-m-s{seed}-{suffix}"
    folder = results / sweep / name
    base = {"loss": loss, "start": start, "model": "m", "feedback": "f", "seed": seed}
    write(folder, "run.json", {"run": name, "labels": {**base, **(labels or {})}})
    write(folder, "status.json", {"state": state, "reason": None, "traceback": None})
    write(folder, "config.json", config or {})
    return folder


def completion(prompt_id, tokens=3, ended=True):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    return {
        "prompt_id": prompt_id,
        "prompt": turns,
        "completion": "Hello",
        "tokens": tokens,
        "ended": ended,
        "reference": None,
    }


def test_outcomes_join_judgements_to_completions(tmp_path):
    folder = run(tmp_path)
    write(folder, "completions.jsonl", completion("a"), completion("b", 9, False), lines=True)
    write(folder, "judgements.jsonl", {"prompt_id": "b", "preference": 0.5, "scores": {"utility": 1.5}}, lines=True)
    table = Sweep.load("s", tmp_path).outcomes.set_index("prompt_id")
    assert table.loc["b", ["preference", "utility", "tokens", "ended"]].tolist() == [0.5, 1.5, 9, False]
    assert table.loc["a", ["preference", "utility"]].isna().all()
    assert table.loc["a", ["loss", "start", "seed", "method", "setting"]].tolist() == ["kto", "sft", 0, "kto", ""]


def test_completions_show_all_turns_of_the_prompt(tmp_path):
    write(run(tmp_path), "completions.jsonl", completion("a"), lines=True)
    row = Sweep.load("s", tmp_path).completions.iloc[0]
    assert (row["prompt"], row["completion"], row["reference"]) == ("Be kind.\nHi", "Hello", None)


def test_only_finished_runs_are_scored_but_all_are_listed_and_all_have_curves(tmp_path):
    for seed, state in enumerate(["done", "failed", "running", "skipped", "preempted"]):
        folder = run(tmp_path, seed=seed, state=state)
        write(folder, "completions.jsonl", completion("a"), lines=True)
        write(folder, "benchmarks.jsonl", {"task": "t", "metric": "acc", "doc_id": 1, "value": 1.0}, lines=True)
        write(folder, "metrics.jsonl", {"step": 1, "loss": 0.7, "kl": 0.0}, lines=True)
        write(folder, "scores.json", {"head_to_head": None, "guards": {"n": 1, "mean_tokens": 3.0}})
    sweep = Sweep.load("s", tmp_path)
    for table in (sweep.outcomes, sweep.benchmarks, sweep.completions, sweep.guards):
        assert table["seed"].tolist() == [0]
    assert sweep.runs["state"].tolist() == ["done", "failed", "running", "skipped", "preempted"]
    assert sweep.training["seed"].tolist() == [0, 1, 2, 3, 4]
    assert sweep.training["training_loss"].tolist() == [0.7] * 5
    assert set(sweep.training["loss"]) == {"kto"}


def test_tables_without_rows_still_have_their_columns(tmp_path):
    run(tmp_path, state="failed")
    sweep = Sweep.load("s", tmp_path)
    assert sweep.outcomes.empty
    assert {"setting", "start", "method", "seed", "prompt_id", "preference"} <= set(sweep.outcomes)
    assert {"task", "metric", "doc_id", "value"} <= set(sweep.benchmarks)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text('{"state": "do')])
def test_a_run_without_readable_status_is_listed_with_the_reason(tmp_path, damage):
    folder = run(tmp_path)
    damage(folder / "status.json")
    row = Sweep.load("s", tmp_path).runs.iloc[0]
    assert row["state"] == "unreadable"
    assert row["loss"] == "kto"
    assert "status.json" in row["reason"]


def test_a_run_without_labels_neither_disappears_nor_splits_the_sweep_into_settings(tmp_path):
    run(tmp_path)
    write(tmp_path / "s" / "odd", "status.json", {"state": "done"})
    runs = Sweep.load("s", tmp_path).runs.set_index("run")
    assert runs.loc["odd", "state"] == "unreadable"
    assert (runs["setting"] == "").sum() == 2


def test_wall_seconds_leave_out_cached_stages(tmp_path):
    stages = {"sft": {"wall_seconds": 5.0, "cached": True}, "align": {"wall_seconds": 7.5, "cached": False}}
    write(run(tmp_path), "timing.json", {"stages": stages})
    assert Sweep.load("s", tmp_path).runs["wall_seconds"].tolist() == [7.5]


def test_labels_that_vary_make_settings(tmp_path):
    run(tmp_path, seed=0, labels={"feedback": "big"})
    run(tmp_path, seed=1, labels={"feedback": "small"})
    assert Sweep.load("s", tmp_path).runs["setting"].tolist() == ["big", "small"]


def test_runs_with_the_same_labels_are_told_apart_by_configuration(tmp_path):
    run(tmp_path, "kto", suffix="aa", config={"loss": {"beta": 0.1}, "x": 1})
    run(tmp_path, "kto", suffix="bb", config={"loss": {"beta": 0.3}, "x": 1})
    run(tmp_path, "kto", seed=1, suffix="cc", config={"loss": {"beta": 0.3}, "x": 1})
    run(tmp_path, "dpo", suffix="dd", config={"loss": {"beta": 0.2}, "x": 1})
    methods = Sweep.load("s", tmp_path).runs.set_index("run")["method"]
    assert methods.to_dict() == {
        "kto-sft-m-s0-aa": "kto beta=0.1",
        "kto-sft-m-s0-bb": "kto beta=0.3",
        "kto-sft-m-s1-cc": "kto beta=0.3",
        "dpo-sft-m-s0-dd": "dpo",
    }


def test_configurations_at_different_seeds_are_told_apart(tmp_path):
    run(tmp_path, seed=0, config={"loss": {"beta": 0.1}, "seed": 0})
    run(tmp_path, seed=1, config={"loss": {"beta": 0.3}, "seed": 1})
    assert Sweep.load("s", tmp_path).runs["method"].tolist() == ["kto beta=0.1", "kto beta=0.3"]


def test_seed_places_and_rounding_make_no_method(tmp_path):
    for seed in (0, 1):
        config = {"seed": seed, "sweep": str(seed), "artifacts": str(seed), "tracking": {"mode": seed}}
        resources = {"micro_batch_size": 2**seed, "gradient_checkpointing": bool(seed), "processes_per_node": 1 + seed}
        config |= {"train": {**resources, "steps": 5}, "start": {"train": {"save_minutes": seed}}}
        config |= {"evaluation": {"generation": {"batch_size": seed}}}
        run(tmp_path, seed=seed, config=config)
    assert set(Sweep.load("s", tmp_path).runs["method"]) == {"kto"}


def test_a_run_of_another_batch_size_is_superseded(tmp_path):
    for suffix, size in (("aa", 8), ("bb", 16)):
        folder = run(tmp_path, suffix=suffix, config={"train": {"micro_batch_size": size, "steps": 5}})
        write(folder, "status.json", {"state": "done", "started": f"2026-01-{size:02}"})
    assert Sweep.load("s", tmp_path).runs["state"].tolist() == ["superseded", "done"]


def test_settings_are_not_variants_and_variants_stay_in_their_setting(tmp_path):
    run(tmp_path, labels={"model": "a"}, suffix="aa", config={"model": {"dtype": "bf16"}, "loss": {"beta": 0.1}})
    run(tmp_path, labels={"model": "b"}, suffix="bb", config={"model": {"size": 3}, "loss": {"beta": 0.1}})
    run(tmp_path, labels={"model": "b"}, suffix="cc", seed=1, config={"model": {"size": 3}, "loss": {"beta": 0.2}})
    table = Sweep.load("s", tmp_path).runs
    assert list(zip(table["setting"], table["method"], strict=True)) == [
        ("a", "kto"), ("b", "kto beta=0.1"), ("b", "kto beta=0.2"),
    ]  # fmt: skip


def test_variants_are_named_alike_for_all_starts(tmp_path):
    run(tmp_path, start="base", suffix="aa", config={"loss": {"beta": 0.1}, "start": {"steps": 0}})
    run(tmp_path, suffix="bb", config={"loss": {"beta": 0.1}, "start": {"steps": 9}})
    run(tmp_path, suffix="cc", seed=1, config={"loss": {"beta": 0.3}, "start": {"steps": 9}})
    assert Sweep.load("s", tmp_path).runs["method"].tolist() == ["kto beta=0.1", "kto beta=0.1", "kto beta=0.3"]


@pytest.mark.parametrize(
    ("configs", "methods"),
    [
        ([{"l": {"_target_": "A", "name": "x", "b": 1}}, {"l": {"_target_": "B", "name": "y", "b": 2}}], "b=1, b=2"),
        ([{"l": {"_target_": "A", "name": "x"}}, {"l": {"_target_": "B", "name": "y"}}], "name=x, name=y"),
        ([{"l": {"_target_": "A"}}, {"l": {"_target_": "B"}}], "_target_=A, _target_=B"),
        ([{"clip": 1}, {"x": 3}], "clip=1, x=3"),
        ([{"clip": 1, "x": 3}, {"x": 3}], "clip=1, "),
        ([{"a": {"n": 1}, "b": {"n": 1}}, {"a": {"n": 2}, "b": {"n": 3}}], "a.n=1 b.n=1, a.n=2 b.n=3"),
    ],
)
def test_variants_are_short(tmp_path, configs, methods):
    for seed, config in enumerate(configs):
        run(tmp_path, seed=seed, config=config)
    found = Sweep.load("s", tmp_path).runs["method"]
    assert ", ".join(found.str.removeprefix("kto").str.strip()) == methods


def test_a_run_without_configuration_does_not_lengthen_the_others(tmp_path):
    run(tmp_path, seed=0, config={"loss": {"beta": 0.1}})
    run(tmp_path, seed=1, state="failed")
    assert set(Sweep.load("s", tmp_path).runs["method"]) == {"kto"}


def test_settings_that_an_untrained_run_never_used_do_not_tell_it_apart(tmp_path):
    for seed, steps in ((0, 5), (1, 9)):
        run(tmp_path, "none", seed=seed, config={"loss": {"_target_": None}, "train": {"steps": steps}})
        run(tmp_path, "dpo", seed=seed, config={"loss": {"_target_": "x.DPO"}, "train": {"steps": steps}})
    assert set(Sweep.load("s", tmp_path).runs["method"]) == {"none", "dpo steps=5", "dpo steps=9"}


def test_a_later_run_of_the_same_configuration_supersedes_the_earlier_one(tmp_path):
    """After a change of code or data the same cell has another fingerprint, and so another folder."""
    for suffix, started, artifacts in (("bb", "2026-01-01", "here"), ("aa", "2026-01-02", "there")):
        folder = run(tmp_path, suffix=suffix, config={"loss": {"beta": 0.1}, "artifacts": artifacts})
        write(folder, "status.json", {"state": "done", "started": started})
        write(folder, "completions.jsonl", completion("p0"), lines=True)
        write(folder, "metrics.jsonl", {"step": 1, "loss": 0.5}, lines=True)
    sweep = Sweep.load("s", tmp_path)
    assert dict(zip(sweep.runs["run"], sweep.runs["state"], strict=True)) == {
        "kto-sft-m-s0-aa": "done",
        "kto-sft-m-s0-bb": "superseded",
    }
    assert "kto-sft-m-s0-aa" in sweep.runs.set_index("state")["reason"]["superseded"]
    assert sweep.outcomes["run"].tolist() == sweep.training["run"].tolist() == ["kto-sft-m-s0-aa"]
    assert set(sweep.runs["method"]) == {"kto"}


def test_runs_with_the_same_labels_and_configuration_are_told_apart_by_name(tmp_path):
    run(tmp_path, suffix="aa")
    run(tmp_path, suffix="bb")
    assert sorted(Sweep.load("s", tmp_path).runs["method"]) == ["kto [aa]", "kto [bb]"]


def test_own_results_come_before_the_reference(tmp_path):
    run(tmp_path, "dpo", sweep="reference/s")
    assert Sweep.load("s", tmp_path).folder == tmp_path / "reference" / "s"
    (tmp_path / "s").mkdir()  # a sweep that was started but has no runs yet does not hide the reference
    assert Sweep.load("s", tmp_path).folder == tmp_path / "reference" / "s"
    run(tmp_path, "kto", sweep="s")
    assert Sweep.load("s", tmp_path).folder == tmp_path / "s"
    assert Sweep.load("s", tmp_path).runs["loss"].tolist() == ["kto"]


def test_an_unknown_sweep_is_an_error_that_lists_what_exists(tmp_path):
    run(tmp_path, sweep="first")
    run(tmp_path, sweep="reference/second")
    (tmp_path / "published").mkdir()
    with pytest.raises(RecordError, match=r"'thrid' does not exist.*first, second"):
        Sweep.load("thrid", tmp_path)
    assert available(tmp_path) == ["first", "second"]


def test_an_empty_sweep_and_no_results_at_all_are_errors(tmp_path):
    (tmp_path / "s").mkdir()
    with pytest.raises(RecordError, match=r"'s' has no runs yet.*none"):
        Sweep.load("s", tmp_path)
    with pytest.raises(RecordError, match="does not exist"):
        Sweep.load("s", tmp_path / "nowhere")


def test_flatten_and_varying():
    assert flatten({"a": {"b": 1, "c": [1, {}]}, "d": {}}) == {"a.b": 1, "a.c": [1, {}], "d": {}}
    assert varying([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == ["b"]


def test_reading_results_does_not_import_torch():
    code = "import sys, kto_bench.results, analysis.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
