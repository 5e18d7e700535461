"""The W&B report, built over real HTTP against a local server that plays W&B."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
from synthetic import SCRIPT, write_json, write_mixed, write_run
from wandb.sdk.lib.wbauth import unauthenticate_session
from wandb_server import ENTITY, KEY, Fault, WandbServer

from analysis import markdown
from analysis.findings import findings
from analysis.registry import NoDataError, discover
from analysis.report import main
from kto_bench.mirror import label_keys, summary_keys, wandb_id
from kto_bench.results import Sweep

TITLE = "kto_bench: small"


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """A process keeps the key of its first server, and its address: not for the tests of other files."""
    yield
    wandb.teardown()
    unauthenticate_session()


@contextmanager
def signed_in(folder: Path) -> Iterator[WandbServer]:
    """W&B with no runs, this account signed in, and ``folder`` the current one."""
    with pytest.MonkeyPatch.context() as patch, WandbServer() as wandb_server:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("NETRC", str(folder / "no-netrc"))
        patch.setenv("WANDB_BASE_URL", wandb_server.url)
        patch.chdir(folder)
        yield wandb_server
    assert not wandb_server.unknown, "the client asks for what the server does not play"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WandbServer]:
    with signed_in(tmp_path) as wandb_server:
        yield wandb_server


def tracked(**fields: Any) -> dict[str, Any]:
    given = {"mode": "offline", "project": "kto_bench", "entity": None, "folder": "artifacts/wandb"}
    return {"tracking": {**given, **fields}}


def write_small(results: Path, name: str = "small", **tracking: Any) -> Sweep:
    """KTO from both starts, DPO from one, two seeds; one run that failed, one that was skipped, a trial, and a
    run that another one superseded."""
    sweep, config = results / name, tracked(**tracking)
    older = write_run(sweep, "kto", "base", 0, prompts=8, hash_="older", config=config)
    status = json.loads((older / "status.json").read_text()) | {"started": "2026-07-01T10:00:00"}
    write_json(older / "status.json", status)
    for index, (loss, start) in enumerate([("kto", "base"), ("kto", "sft"), ("dpo", "sft")]):
        for seed in (0, 1):
            write_run(sweep, loss, start, seed, prompts=8, hash_=f"{index}{seed}", config=config)
    write_run(sweep, "orpo", "sft", 0, state="failed", steps=6, hash_="failed", config=config)
    write_run(sweep, "ipo", "sft", 0, state="skipped", steps=0, hash_="skipped", config=config)
    trial = {"role": "trial", "trial": 0}
    write_run(sweep, "dpo", "sft", 9, prompts=8, hash_="trial", config=config | trial, labels=trial)
    return Sweep.load(name, results)


def write_one(results: Path, **tracking: Any) -> Sweep:
    """The smallest sweep there is, for what goes wrong."""
    write_run(results / "small", "kto", "sft", 0, prompts=4, config=tracked(**tracking))
    return Sweep.load("small", results)


def ids(sweep: Sweep) -> dict[str, str]:
    return {r.run: wandb_id(sweep.name, r.status["fingerprint"]) for r in [*sweep.records, *sweep.trials]}


def mirror(server: WandbServer, sweep: Sweep, project: str = "kto_bench", without: tuple[str, ...] = ()) -> None:
    """Put every run that began into the server's project, as a sync does."""
    for record in [*sweep.records, *sweep.trials]:
        if record.state != "skipped" and not record.run.startswith(without or ("?",)):
            server.add_run(project, ids(sweep)[record.run], sweep.name, label_keys(record.labels))


def report(results: Path, *arguments: str, name: str = "small") -> int:
    return main([name, "--wandb", "--results", str(results), *arguments])


@dataclass(frozen=True)
class Spec:
    """What the server was sent, taken apart."""

    view: dict[str, Any]

    @property
    def blocks(self) -> list[dict[str, Any]]:
        return json.loads(self.view["spec"])["blocks"]

    @property
    def grids(self) -> dict[str, dict[str, Any]]:
        """The metadata of the panel grids by the heading above them."""
        found, heading = {}, ""
        for block in self.blocks:
            heading = block["children"][0]["text"] if block["type"] == "heading" else heading
            if block["type"] == "panel-grid":
                found[heading] = block["metadata"]
        return found

    @property
    def text(self) -> dict[str, str]:
        """Markdown by the heading above it."""
        found: dict[str, str] = {}
        heading = ""
        for block in self.blocks:
            heading = block["children"][0]["text"] if block["type"] == "heading" else heading
            if block["type"] == "markdown-block":
                found[heading] = found.get(heading, "") + block["content"]
        return found


def only(server: WandbServer) -> Spec:
    (view,) = server.views.values()
    return Spec(view)


def panels(grid: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = grid["panelBankSectionConfig"]["panels"]
    return {panel["config"].get("chartTitle", panel["viewType"]): panel["config"] for panel in found}


def members(run_set: dict[str, Any]) -> tuple[str, set[str]]:
    """The group and the ids that a run set is filtered by."""
    group, runs = run_set["filters"]["filters"]
    assert (group["key"], group["op"]) == ({"section": "run", "name": "group"}, "=")
    assert (runs["key"], runs["op"], runs["connector"]) == ({"section": "run", "name": "name"}, "IN", "AND")
    return group["value"], set(runs["value"])


@dataclass(frozen=True)
class Built:
    """A report that was built once, and the sweep that it is of."""

    sweep: Sweep
    server: WandbServer
    spec: Spec


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    with signed_in(folder) as wandb_server:
        sweep = write_small(folder)
        mirror(wandb_server, sweep)
        wandb_server.page = 3  # of runs in one answer
        assert report(folder) == 0
        return Built(sweep, wandb_server, only(wandb_server))


def test_one_report_is_sent_with_the_key_to_where_the_runs_are(built: Built) -> None:
    assert built.server.sent == ["upsertView"]
    assert built.server.keys == {f"api:{KEY}"}
    assert built.spec.view["place"] == (ENTITY, "kto_bench")
    assert (built.spec.view["displayName"], built.spec.view["type"]) == (TITLE, "runs")


def test_the_report_has_the_findings_and_the_tables(built: Built) -> None:
    text = built.spec.text
    for finding in findings(built.sweep):
        assert all(markdown.escape(sentence) in text[finding.question] for sentence in finding.sentences)
    for entry in discover("TABLE").values():
        try:
            sheet = entry.make(built.sweep)
        except NoDataError:
            assert entry.title not in text
        else:
            assert markdown.table(sheet.display, 200) in text[entry.title]
    assert "kto-bench-report small --wandb" in text["Make it again"]


def test_panels_are_by_loss_and_start_over_exactly_the_runs_of_the_sweep(built: Built) -> None:
    grids, of = built.spec.grids, ids(built.sweep)
    assert list(grids) == ["Scores by loss and start", "From the base start", "From the SFT start"]
    expected = {
        f"{name} start": {
            of[r.run] for r in built.sweep.records if r.labels["start"] == start and r.state in ("done", "failed")
        }
        for name, start in (("base", "base"), ("SFT", "sft"))
    }
    assert sum(map(len, expected.values())) == 7
    assert {run["group"] for run in built.server.runs.values()} == {"small"}
    assert len(built.server.runs) == 9
    for grid in grids.values():
        for run_set in grid["runSets"]:
            assert members(run_set) == ("small", expected[run_set["name"]]), (
                "no trial or superseded run, which are in the group"
            )
            assert run_set["grouping"] == [{"section": "config", "name": "label_loss.value"}]
            assert run_set["project"] == {"id": "internal-kto_bench", "name": "kto_bench", "entityName": ENTITY}
    assert [run_set["name"] for run_set in grids["Scores by loss and start"]["runSets"]] == ["base start", "SFT start"]
    (run_set,) = grids["From the SFT start"]["runSets"]
    assert run_set["name"] == "SFT start"
    colours = grids["From the SFT start"]["customRunColors"]
    assert colours[f"{run_set['id']}-config:label_loss.value:kto"] == "#D55E00", "as in the figures"


def test_panels_show_what_the_runs_have(built: Built) -> None:
    grids = built.spec.grids
    bars = panels(grids["Scores by loss and start"])
    assert bars["Win rate"]["metrics"] == ["head_to_head/win_rate"]
    assert bars["Win rate"]["groupBy"] == "label_loss.value"
    assert {"Guard: mean tokens", "Guard: share capped", "Question set: win rate"} <= set(bars)
    there = set(summary_keys(built.sweep.records[0].json("scores.json")))
    assert {metric for bar in bars.values() for metric in bar["metrics"]} <= there

    base, sft = panels(grids["From the base start"]), panels(grids["From the SFT start"])
    assert base["Loss"]["metrics"] == ["train/loss"]
    assert base["Rewards"]["metrics"] == ["train/rewards/desirable", "train/rewards/undesirable"], "KTO's alone"
    assert set(sft["Rewards"]["metrics"]) > {"train/rewards/chosen", "train/rewards/desirable"}, "DPO's, too"
    assert base["KL estimate"]["metrics"] == ["train/kl_raw", "train/kl"]
    drawn = [base["Loss"][key] for key in ("groupBy", "groupAgg", "groupArea")]
    assert drawn == ["label_loss.value", "mean", "minmax"]
    assert "completions" in json.dumps(base["Weave"]), "the table that each run logs"


def test_what_models_and_users_wrote_is_text(built: Built) -> None:
    text = built.spec.text
    assert SCRIPT in built.sweep.completions["completion"].str.cat()
    assert "&lt;script&gt;" in text["Sample completions"]
    assert "loss is NaN at step 7" in text["Runs"]
    assert not [name for name, content in text.items() if "<" in content]


def test_a_second_call_replaces_the_report_and_keeps_title_and_comments(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_one(tmp_path)
    mirror(server, sweep)
    assert report(tmp_path) == 0
    first = only(server).view
    spec = json.loads(first["spec"]) | {"discussionThreads": [{"id": "thread", "comments": ["why?"]}]}
    first |= {"displayName": "Renamed", "spec": json.dumps(spec)}
    # Of the same title, but written by hand; and of another sweep.
    for id_, description in (("bXk=", "by hand"), ("b3Q=", first["description"].replace("small", "small2"))):
        server.views[id_] = first | {"id": id_, "description": description, "displayName": TITLE}
    others = {id_: dict(view) for id_, view in server.views.items() if id_ != first["id"]}
    write_run(tmp_path / "small", "kto", "sft", 1, prompts=4, hash_="second", config=tracked())
    mirror(server, Sweep.load("small", tmp_path))
    assert report(tmp_path) == 0
    second = server.views[first["id"]]
    assert len(server.views) == 3
    assert {id_: server.views[id_] for id_ in others} == others
    assert second["displayName"] == "Renamed"
    assert json.loads(second["spec"])["discussionThreads"] == spec["discussionThreads"]
    assert "The sweep has 2 runs" in Spec(second).text["What was run?"]
    assert "replacing http" in capsys.readouterr().out


def test_methods_of_one_loss_and_settings_have_run_sets_of_their_own(server: WandbServer, tmp_path: Path) -> None:
    write_mixed(tmp_path, prompts=4)
    mirror(server, Sweep.load("mixed", tmp_path))
    assert report(tmp_path, name="mixed") == 0
    sets = {one["name"]: members(one)[1] for one in only(server).grids["Scores by loss and start"]["runSets"]}
    assert len(sets) == 6, "two settings with one run set for each method, one with a start each"
    in_one = [name for name in sets if "beta=0.1" in name]
    assert [sets[name] for name in in_one] == [{wandb_id("mixed", "a1")}]
    assert sorted(id_ for runs in sets.values() for id_ in runs) == sorted(ids(Sweep.load("mixed", tmp_path)).values())


def test_runs_that_wait_to_be_synced_are_named_with_the_command(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_small(tmp_path, folder="my mirror")
    first, *rest = (ids(sweep)[record.run] for record in sweep.records if record.state == "done")
    folder = Path("my mirror/wandb")
    (folder / f"offline-run-20260101_000000-{first}").mkdir(parents=True)
    (folder / f"offline-run-20260102_000000-{first}").mkdir()
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert "1 finished run is not in tester/kto_bench yet. Sync first" in told
    assert (
        f"  wandb sync 'my mirror/wandb/offline-run-20260101_000000-{first}' "
        f"'my mirror/wandb/offline-run-20260102_000000-{first}'\n" in told
    )
    for id_ in rest:
        (folder / f"offline-run-20260101_000000-{id_}").mkdir()
    assert report(tmp_path, "--project", "elsewhere") == 1
    told = capsys.readouterr().err
    assert "6 finished runs are not in tester/elsewhere yet" in told
    assert "  wandb sync --project=elsewhere 'my mirror/wandb'/offline-run-*\n" in told
    assert not server.sent


def test_runs_that_wandb_cannot_have_are_named_in_the_report(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_small(tmp_path, mode="none")
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert "no run of sweep 'small' is in tester/kto_bench" in told
    assert "(tracking.mode: none)" in told
    assert not server.sent
    mirror(server, sweep, without=("dpo-sft",))
    assert report(tmp_path) == 0
    warned = "".join(only(server).text.values())
    assert "not in W&B, and so in no panel" in warned
    assert warned.index("not in W&B") < warned.index("* dpo-sft-sandbox\\_small-s0-20\n* dpo-sft-sandbox\\_small-s1-21")


@pytest.mark.parametrize(("group", "labels"), [("other", {}), ("small", {"label_loss": "dpo"})])
def test_a_run_that_panels_would_not_find_is_refused(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str, labels: dict[str, Any]
) -> None:
    sweep = write_one(tmp_path)
    (record,) = sweep.records
    id_ = ids(sweep)[record.run]
    server.add_run("kto_bench", id_, group, label_keys(record.labels) | labels)
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert f"{record.run} is in tester/kto_bench without" in told
    right = "run.config['label_loss'] = 'kto'" if labels else "run.group = 'small'"
    assert f'`run = wandb.Api().run("tester/kto_bench/{id_}"); {right}; run.update()`' in told
    assert not server.sent


def test_without_a_key_nothing_is_asked_and_nothing_sent(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_one(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY")
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert "no W&B key: set WANDB_API_KEY, or call `wandb login` once on this machine" in told
    assert not server.operations
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert report(tmp_path) == 1
    assert "reading the key failed" in capsys.readouterr().err
    assert not server.operations
    monkeypatch.delenv("WANDB_API_KEY")
    host = server.url.removeprefix("http://")
    (tmp_path / "no-netrc").write_text(f"machine {host} login user password {KEY}\n")
    mirror(server, Sweep.load("small", tmp_path))
    assert report(tmp_path) == 0, "what `wandb login` leaves behind"


ADVICE = {
    401: "does not accept the W&B key: set WANDB_API_KEY, or `wandb login --relogin`",
    403: "this account is not allowed to: ask for access, or give --entity or --project",
    404: "there is no such project, or this account may not see it",
    500: "has a fault of its own: try again later",
}


@pytest.mark.parametrize(
    ("status", "operation"),
    [
        *((status, operation) for status in (401, 403, 404) for operation in ("Viewer", "Runs", "upsertView")),
        (500, "Runs"),
    ],
)
def test_what_the_server_refuses_is_told_with_advice(
    server: WandbServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    operation: str,
    status: int,
) -> None:
    mirror(server, write_one(tmp_path))
    server.fault = lambda asked: Fault(status) if asked == operation else None
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert ADVICE[status] in told
    assert "failed: " in told
    assert "Traceback" not in told
    assert not server.views
    assert server.sent == (["upsertView"] if operation == "upsertView" else [])
    if status == 500:
        assert server.operations.count(operation) == 3, "tried again twice"


@pytest.mark.parametrize("operation", ["Viewer", "Runs", "ProjectViews", "upsertView"])
@pytest.mark.parametrize("body", ["<html>maintenance</html>", '{"data": {}}', '{"data": ['])
def test_answers_that_are_none_are_told(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], operation: str, body: str
) -> None:
    mirror(server, write_one(tmp_path))
    server.fault = lambda asked: Fault(200, body) if asked == operation else None
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert told.startswith("kto-bench-report: ")
    assert ("no run of sweep" if (operation, body) == ("Runs", '{"data": {}}') else "failed: ") in told
    assert not server.views


@pytest.mark.parametrize("operation", ["Viewer", "Runs"])
def test_a_server_that_never_answers_is_given_up(
    server: WandbServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
) -> None:
    import wandb

    mirror(server, write_one(tmp_path))
    monkeypatch.setattr(wandb.Api, "_HTTP_TIMEOUT", 0.5)
    server.fault = lambda asked: Fault(delay=5) if asked == operation else None
    assert report(tmp_path) == 1
    assert f"is {server.url} W&B, and can it be reached from here?" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_one(tmp_path)
    with WandbServer() as gone:
        url = gone.url
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    assert report(tmp_path) == 1
    told = capsys.readouterr().err
    assert f"signing in failed: is {url} W&B, and can it be reached from here?" in told


def test_runs_of_several_projects_need_a_choice(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_one(tmp_path)
    folder = write_run(tmp_path / "small", "dpo", "sft", 0, prompts=4, hash_="b", config=tracked(project="mine"))
    assert report(tmp_path) == 1
    assert "differ in tracking.project (kto_bench, mine): give --project" in capsys.readouterr().err
    mirror(server, Sweep.load("small", tmp_path), project="mine")
    assert report(tmp_path, "--project", "mine") == 0
    assert only(server).view["place"] == (ENTITY, "mine")
    write_json(folder / "config.json", {"seed": 0})  # a record that does not say
    server.operations.clear()
    assert report(tmp_path, "--entity", "team") == 1
    assert "is in team/kto_bench" in capsys.readouterr().err


def test_other_reports_do_not_load_wandb() -> None:
    program = "import sys, analysis.report as r; r.discover('TABLE'); print({'wandb', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--wandb", "--out", "x"], "--out and --published are about the local report"),
        (["--project", "x"], "add --wandb"),
        (["--entity", "x"], "add --wandb"),
    ],
)
def test_choices_that_do_not_go_together(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    with pytest.raises(SystemExit):
        main(["small", *arguments])
    assert told in capsys.readouterr().err
