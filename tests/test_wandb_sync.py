"""From a run to a report: W&B's own program reads the offline files and sends them; the report finds the runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import MakeConfig
from wandb_server import ENTITY, KEY, WandbServer

from analysis.report import main
from kto_bench.mirror import label_keys, summary_keys, wandb_id
from kto_bench.results import Sweep
from kto_bench.run import describe, execute


def test_runs_that_are_synced_from_offline_folders_are_in_the_groups_of_the_report(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    # An absolute folder: the helper process of wandb may have been started by an earlier test, in another folder.
    offline = ["tracking=offline", f"tracking.folder={tmp_path}/artifacts/wandb", "tracking.project=mine"]
    for loss in ("kto", "none"):
        assert execute(make(f"loss={loss}", *offline)) == "done"
    arguments = ["adhoc", "--wandb", "--results", str(tmp_path / "results")]
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert main(arguments) == 1
        told = capsys.readouterr().err
        assert "2 finished runs are not in tester/mine yet" in told
        assert not server.sent
        command = shlex.split(told.splitlines()[-1])
        assert command[:2] == ["wandb", "sync"]
        assert len(command) == 4
        # As from a shell of its own: wandb leaves in this process's environment where its helper process is.
        shell = {name: value for name, value in os.environ.items() if "WANDB" not in name}
        shell |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        done = subprocess.run([sys.executable, "-m", *command], env=shell, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr.decode()
        assert not server.unknown
        assert len(server.runs) == 2, done.stderr.decode()

        sweep = Sweep.load("adhoc", tmp_path / "results")
        plan, _ = describe(make("loss=kto", *offline))
        assert {key[:2] for key in server.runs} == {(ENTITY, "mine")}
        assert {key[2] for key in server.runs} == {wandb_id("adhoc", r.status["fingerprint"]) for r in sweep.records}
        for record in sweep.records:
            run = server.runs[ENTITY, "mine", wandb_id("adhoc", record.status["fingerprint"])]
            assert (run["group"], run["displayName"], run["state"]) == ("adhoc", record.run, "finished")
            config = {key: item["value"] for key, item in json.loads(run["config"]).items()}
            assert label_keys(record.labels).items() <= config.items()
            assert config["train"]["steps"] == 3, "the configuration itself, too"
        kto = server.runs[ENTITY, "mine", wandb_id("adhoc", plan.fingerprint)]
        steps = [row for row in kto["history"] if "train/loss" in row]
        logged = [json.loads(line) for line in (Path("results/adhoc") / plan.name / "metrics.jsonl").open()]
        assert [row["_step"] for row in steps] == [1, 2, 3]
        assert [row["train/loss"] for row in steps] == pytest.approx([row["loss"] for row in logged])

        assert main(arguments) == 0
        assert not server.unknown
        (view,) = server.views.values()

    grids = [block["metadata"] for block in json.loads(view["spec"])["blocks"] if block["type"] == "panel-grid"]
    summary = json.loads(kto["summaryMetrics"])
    record = next(record for record in sweep.records if record.run == plan.name)
    scores = summary_keys(record.json("scores.json"))
    assert {key: summary[key] for key in scores} == pytest.approx(scores)
    assert summary["completions"]["_type"] == "table-file"
    for grid in grids:
        (run_set,) = grid["runSets"]
        group, runs = run_set["filters"]["filters"]
        assert group["value"] == "adhoc"
        assert set(runs["value"]) == {key[2] for key in server.runs}
        (grouping,) = run_set["grouping"]
        key, _, envelope = grouping["name"].partition(".")
        assert json.loads(kto["config"])[key][envelope] == "kto", "what the run set is grouped by is where W&B has it"
        for panel in grid["panelBankSectionConfig"]["panels"]:
            assert set(panel["config"].get("metrics", [])) <= {*summary, *steps[-1]}, "panels show what was sent"
