"""One run as a chain of stages. Read this file first.

    model ────► base ─────► sft ─────► reference ────► align ─┬─► generate ──► judge (──► statistics)
    feedback ─► tokens ──────┴────────────┴──────────────┘    ├─► implied_reward (where it is asked for)
                                                              └─► benchmark (one per task)

``plan`` describes every stage before anything is computed; ``execute`` fetches them one after another from the store,
which builds what is missing, and leaves the record. Without SFT (start=base) the base is the start; with loss=none the
start itself is evaluated. With evaluation.at_steps the right-hand part is there for each of these steps as well.
"""

from __future__ import annotations

import json
import shutil
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kto_bench.config import Config
from kto_bench.evaluation import implied_reward
from kto_bench.evaluation.benchmarks.choices import CHOICES
from kto_bench.evaluation.generation.guards import score_guards
from kto_bench.evaluation.generation.loaded import forget
from kto_bench.feedback.subsampling import IDS
from kto_bench.heartbeat import Heartbeat
from kto_bench.lines import append_line, read_lines, write_lines
from kto_bench.machines import machine_rank
from kto_bench.models import PRETRAINING, size_of
from kto_bench.over_training import collect_over_training
from kto_bench.preemption import Preempted, Preemption
from kto_bench.record import Record
from kto_bench.round_stages import collect_rounds
from kto_bench.screen import Screen
from kto_bench.stages import Stages
from kto_bench.store import Fetched, Stage, Store, fingerprint_of, locked
from kto_bench.tracking import WandbMirror
from kto_bench.training.examples import REPORT
from kto_bench.watch import Watch

State = Literal["done", "failed", "cached"]


@dataclass(frozen=True)
class Plan:
    """The stages of one run in the order in which they are fetched, and what is named after them."""

    stages: dict[str, Stage]
    """By label."""
    labels: dict[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """The identity of the run: everything that can change its record."""
        return fingerprint_of(self.fingerprints)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each stage, by label."""
        return {name: stage.fingerprint for name, stage in self.stages.items()}

    @property
    def name(self) -> str:
        """The name of the run's folder, from the configuration alone."""
        label = self.labels
        return f"{label['loss']}-{label['start']}-{label['model']}-s{label['seed']}-{self.fingerprint[:8]}"


def plan(config: Config, watch: Watch) -> Plan:
    """Every stage of a run, described and fingerprinted; nothing is computed and no model is loaded."""
    stages = Stages(config, watch)
    chain = [
        stages.feedback,  # first, since it is quick and a bad row must not cost a pretrained model
        stages.base,
        # Before anything is trained, since with the tokens comes the data report.
        *([stages.trained_on, stages.tokens] if stages.align and not stages.rounds else []),
        *stages.start.inputs.values(),
        stages.start,
        *stages.alignment,
        *(stage for at_step in stages.over_training for stage in at_step.all),
        *stages.evaluation.all,
        *stages.implied_reward.all,
    ]
    return Plan({stage.label: stage for stage in chain if stage is not None}, config.labels)


def describe(config: Config) -> tuple[Plan, Record]:
    """A run's plan and its record on disk, for those who only look."""
    described = plan(config, Watch(Screen(""), lambda metrics, timing: None, Preemption()))
    return described, _record(config, described)


def execute(config: Config) -> State:
    """Do one run, or find it done. An error is kept in the record with its traceback and returned as "failed".

    SIGTERM raises Preempted; the record says so, and what the training saved is there for the next launch.
    """
    described, record = describe(config)
    screen = Screen(described.name)
    if config.train.nodes > 1 and machine_rank() > 0:
        return _help(config, described.name, record)
    lock = lock_of(config, described)
    lock.parent.mkdir(parents=True, exist_ok=True)
    before = record.status()
    # Two launches of the same sweep at once: the second waits here and then finds the record done.
    with (
        Preemption() as preemption,
        locked(lock, lambda holder: screen.say(f"waiting for {holder} to finish this run")),
    ):
        state = record.state()
        if state == "done":
            screen.say("already done")
            return "cached"
        if state == "failed" and record.status() != before:
            screen.say("has just failed in another launch")
            return "failed"
        try:
            record.start(described.labels, described.fingerprints, config.plain)
            with Heartbeat(record.folder) as heartbeat:
                _run(config, record, Screen(described.name, heartbeat), preemption)
            record.done()
        except Preempted as error:
            with suppress(OSError):  # a record that goes on saying "running", without a heartbeat, means the same
                record.preempted(str(error))
            screen.say(f"preempted: {error}")
            raise
        except KeyboardInterrupt:  # no fault of the run, either
            with suppress(OSError):
                record.preempted("interrupted from the keyboard; the same command goes on")
            raise
        except Exception as error:
            screen.say(f"FAILED: {type(error).__name__}: {error} (traceback in {record.folder / 'status.json'})")
            try:
                record.failed(error)
            except OSError as trouble:  # a full disk, say
                screen.say(f"the record cannot be written ({trouble}), so the traceback is here:")
                screen.say("".join(traceback.format_exception(error)))
            return "failed"
        screen.say(f"done: {record.folder}")
    return "done"


def lock_of(config: Config, described: Plan) -> Path:
    """The lock that whoever works on the run holds."""
    return config.run.artifacts / "runs" / f"{config.run.sweep}-{described.name}.lock"


def _help(config: Config, name: str, record: Record) -> State:
    """On a machine that is not the first: add workers to the stages that all share. The first machine does the rest."""
    screen = Screen(f"{name}, machine {machine_rank()}")
    if record.state() == "done":  # the first machine sees it, too, and asks for no help
        return "cached"
    with Preemption() as preemption:
        stages = plan(config, Watch(screen, lambda metrics, timing: None, preemption)).stages
        store = _store(config, screen)
        try:
            for stage in stages.values():
                if stage.machines > 1:
                    store.fetch(stage)
        except Exception as error:
            screen.say("".join(traceback.format_exception(error)))
            return "failed"
    return "done"


def _store(config: Config, screen: Screen) -> Store:
    return Store(
        config.run.artifacts,
        on_wait=lambda stage, holder: screen.waiting(stage.label, holder),
        on_damage=lambda stage, damage: screen.say(f"{stage.label}: {damage}"),
    )


def _run(config: Config, record: Record, screen: Screen, preemption: Preemption) -> None:
    store = _store(config, screen)
    with WandbMirror(config, record.folder.name, record.fingerprint, screen.say) as mirror:

        def on_metrics(metrics: Any, timing: Any) -> None:
            append_line(record.folder / "metrics.jsonl", metrics)
            mirror.log(metrics, timing)

        described = plan(config, Watch(screen, on_metrics, preemption))
        fetched = {}
        try:
            for name, stage in described.stages.items():
                fetched[name] = store.fetch(stage)
                if stage.name == "tokens":
                    record.write_json("data_report.json", _data_report(fetched))
                if preemption.requested:  # and yet we are here: a library swallowed the exception
                    raise Preempted
        finally:
            forget()  # the next run of this process trains first, and needs the memory
        rows = _collect(fetched, record)
        scores = json.loads((record.folder / "scores.json").read_text(encoding="utf-8"))
        mirror.finish(read_lines(record.folder / "metrics.jsonl"), scores, rows)


def _data_report(fetched: dict[str, Fetched]) -> dict[str, Any]:
    """What is known of the data so far: the feedback, the part of it that is trained on, and both as tokens."""
    files = {"feedback": "data.json", "subsample": "data.json", "tokens": REPORT, "tokens/demonstrations": REPORT}
    in_rounds = {"annotate": "data.json", "tokens": REPORT}
    files |= {name: in_rounds[stage] for name in fetched if (stage := name.partition("/")[0]) in in_rounds}
    return {
        name: json.loads((fetched[name].folder / file).read_text(encoding="utf-8"))
        for name, file in files.items()
        if name in fetched
    }


def _collect(fetched: dict[str, Fetched], record: Record) -> list[dict[str, Any]]:
    """Copy what figures need from the artifacts into the record. Returns the completions with their preferences."""
    folders = {name: found.folder for name, found in fetched.items()}
    timing = {name: {"wall_seconds": found.wall_seconds, "cached": found.cached} for name, found in fetched.items()}
    steps = read_lines(folders["align"] / "timing.jsonl") if "align" in folders else []
    record.write_json("timing.json", {"stages": timing, **({"align": _mean_timing(steps)} if steps else {})})
    data = json.loads((folders["feedback"] / "data.json").read_text(encoding="utf-8"))
    if "subsample" in folders:
        data["subsample"] = json.loads((folders["subsample"] / "data.json").read_text(encoding="utf-8"))
        if (folders["subsample"] / IDS).exists():  # parts that were made before it was kept have none
            shutil.copy(folders["subsample"] / IDS, record.folder)
    if "sft" in folders:
        data["sft"] = json.loads((folders["sft"] / "data.json").read_text(encoding="utf-8"))
    if "align" in folders:
        shutil.copy(folders["align"] / "metrics.jsonl", record.folder / "metrics.jsonl")
        data |= json.loads((folders["align"] / "data.json").read_text(encoding="utf-8"))
        data |= collect_rounds(folders, data)
    base = next(folders[name] for name in ("pretrain", "checkpoint") if name in folders)
    data["parameters"] = asdict(size_of(base))
    if (base / PRETRAINING).exists():
        data["pretraining"] = json.loads((base / PRETRAINING).read_text(encoding="utf-8"))
    record.write_json("data.json", data)
    scores: dict[str, Any] = {"head_to_head": None, "benchmarks": {}, "guards": None}
    metrics = read_lines(record.folder / "metrics.jsonl") if "align" in folders else []
    if over_training := collect_over_training(folders, metrics, record.folder):
        scores["over_training"] = over_training
    rows: list[dict[str, Any]] = []
    if "generate" in folders:
        shutil.copy(folders["generate"] / "completions.jsonl", record.folder)
        rows = read_lines(folders["generate"] / "completions.jsonl")
        scores["guards"] = score_guards(rows)
    if "judge" in folders:
        shutil.copy(folders["judge"] / "judgements.jsonl", record.folder)
        scores["head_to_head"] = json.loads((folders["judge"] / "summary.json").read_text(encoding="utf-8"))
        preferences = {row["prompt_id"]: row["preference"] for row in read_lines(folders["judge"] / "judgements.jsonl")}
        rows = [{**row, "preference": preferences[row["prompt_id"]]} for row in rows]
    if "statistics" in folders:
        scores["statistics"] = json.loads((folders["statistics"] / "statistics.json").read_text(encoding="utf-8"))
    if "implied_reward" in folders:
        folder = folders["implied_reward"]
        shutil.copy(folder / implied_reward.ROWS, record.folder)
        scores["implied_reward"] = json.loads((folder / implied_reward.SUMMARY).read_text(encoding="utf-8"))
    if benchmarks := [folder for name, folder in folders.items() if name.startswith("benchmark/") and "@" not in name]:
        lines = [row for folder in benchmarks for row in read_lines(folder / "benchmarks.jsonl")]
        write_lines(record.folder / "benchmarks.jsonl", lines)
        if choices := [row for folder in benchmarks for row in read_lines(folder / CHOICES)]:
            write_lines(record.folder / CHOICES, choices)
        for folder in benchmarks:
            scores["benchmarks"] |= json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    record.write_json("scores.json", scores)
    return rows


def _mean_timing(steps: list[dict[str, Any]]) -> dict[str, float]:
    """Over all steps, from the timing of each: the tokens in a second, and the share of positions that held none."""
    seconds = sum(step["wall_seconds"] for step in steps)
    tokens = sum(step["tokens_per_second"] * step["wall_seconds"] for step in steps)
    computed = sum(step["tokens_per_second"] * step["wall_seconds"] / (1 - step["padding_share"]) for step in steps)
    return {"tokens_per_second": tokens / seconds, "padding_share": 1 - tokens / computed}


def _record(config: Config, described: Plan) -> Record:
    settings = config.run
    folder = settings.results / settings.sweep / described.name
    return Record(Path(folder), described.name, settings.sweep, described.fingerprint)
