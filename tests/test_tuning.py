"""Tuning: what is tried, on which prompts it is chosen, and what the winners are tested on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from places import ROOT
from tiny import tiny_model, tiny_tokenizer

from kto_bench.component import ConfigError
from kto_bench.config import resolve
from kto_bench.losses import Loss
from kto_bench.record import Record
from kto_bench.results import Sweep
from kto_bench.run import describe, execute
from kto_bench.training.config import TrainConfig
from kto_bench.tuning.cells import Cells, split
from kto_bench.tuning.selection import NotYet, SelectionError, best, validation_score
from kto_bench.tuning.spaces import Space, Tune, draws

LOSSES = sorted(path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml") if path.stem != "none")
KTO = {"learning_rate": Space(low=5e-7, high=5e-6), "beta": Space(values=(0.1, 0.2, 0.4))}
DEFAULT = {"learning_rate": 5e-6, "beta": 0.1}


def tune(**fields: Any) -> Tune:
    return Tune(**{"trials": 6, **fields})


# Spaces and draws


def test_the_first_trial_is_the_default_and_the_others_are_in_the_space() -> None:
    tried = draws("kto", tune(), KTO, DEFAULT)
    assert tried[0] == DEFAULT
    assert len({json.dumps(settings) for settings in tried}) == len(tried) == 6
    for settings in tried[1:]:
        assert settings["beta"] in (0.1, 0.2, 0.4)
        assert 5e-7 <= settings["learning_rate"] <= 5e-6
        assert settings["learning_rate"] == float(f"{settings['learning_rate']:.3g}")


def test_draws_depend_on_their_names_only() -> None:
    tried = draws("kto", tune(), KTO, DEFAULT)
    assert draws("kto", tune(trials=3), KTO, DEFAULT) == tried[:3], "more trials change no earlier one"
    alone = draws("kto", tune(), {"learning_rate": KTO["learning_rate"]}, DEFAULT)
    rates = [settings["learning_rate"] for settings in tried]
    assert [settings["learning_rate"] for settings in alone] == rates, "another parameter changes no other one"
    assert draws("dpo", tune(), KTO, DEFAULT)[1:] != tried[1:]
    assert draws("kto", tune(seed=7), KTO, DEFAULT)[1:] != tried[1:]


def test_a_range_is_drawn_from_by_factors_unless_it_is_linear() -> None:
    """Half of the draws from 1 to 100 lie below 10 on a log scale, a tenth on a linear one (binomial, n = 300)."""
    many = tune(trials=301)

    def share(scale: str) -> float:
        found = draws("x", many, {"a": Space.model_validate({"low": 1, "high": 100, "scale": scale})}, {"a": 1.0})
        return sum(settings["a"] < 10 for settings in found[1:]) / 300

    assert 0.4 < share("log") < 0.6
    assert 0.04 < share("linear") < 0.16


def test_a_space_that_is_too_small_is_refused() -> None:
    three = {"beta": Space(values=(0.1, 0.2, 0.4))}
    assert {settings["beta"] for settings in draws("x", tune(trials=3), three, {"beta": 0.1})} == {0.1, 0.2, 0.4}
    with pytest.raises(ConfigError, match=r"tune\.trials: 4 is more than the space of 'x' holds, which is 3 different"):
        draws("x", tune(trials=4), three, {"beta": 0.1})


def test_a_sweep_scales_replaces_and_fixes_parameters() -> None:
    assert tune().space_of("kto", KTO) == KTO
    assert tune(beta="space").space_of("kto", KTO) == KTO
    assert tune(beta="fixed").space_of("kto", KTO) == {"learning_rate": KTO["learning_rate"]}
    assert tune(beta=[1, 2]).space_of("kto", KTO)["beta"] == Space(values=(1, 2))
    scaled = tune(scale={"learning_rate": 1000}).space_of("kto", KTO)
    assert scaled["learning_rate"] == Space(low=5e-4, high=5e-3)
    assert tune(learning_rate=[1.0], scale={"learning_rate": 9}).space_of("kto", KTO)["learning_rate"].values == (1.0,)
    with pytest.raises(ConfigError, match=r"the loss 'mine' has no space; add a block `space` to conf/loss/mine.yaml"):
        tune().space_of("mine", {})
    with pytest.raises(ConfigError, match="every parameter of the space of 'kto' is 'fixed'"):
        tune(beta="fixed", learning_rate="fixed").space_of("kto", KTO)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trails": 8}, "trails: 8 is not allowed: give 'space'"),
        ({"beta": {"low": 1}}, "both low and high"),
        ({"beta": {"low": 2, "high": 1}}, "low 2 and high 1 are not allowed"),
        ({"beta": {"low": 0, "high": 1}}, "low > 0 unless scale is linear"),
        ({"scale": {"beta": 0}}, r"scale\.beta: 0 is not allowed"),
        ({"trials": 0}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tune(**fields)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_documents_a_space_of_its_own_parameters(loss: str) -> None:
    """Every value of it is one that the loss accepts, the ends of ranges included."""
    written = yaml.safe_load((ROOT / "conf" / "loss" / f"{loss}.yaml").read_text())
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = resolve(compose("config", [f"loss={loss}", "model=llama3_8b"]))
    assert isinstance(config.loss, Loss)
    assert set(written["space"]) == set(config.run.space)
    assert "learning_rate" in config.run.space
    for name, space in config.run.space.items():
        for value in space.values or (space.low, space.high):
            if name in TrainConfig.model_fields:
                TrainConfig(**{name: value})
            else:
                type(config.loss)(**{**config.loss.model_dump(), name: value})
    # The default is one of what the authors search, or near to it: it is the first trial.
    rate, rates = written["train"]["learning_rate"], config.run.space["learning_rate"]
    assert min(rates.values or (rates.low,)) <= float(rate) <= max(rates.values or (rates.high,))


# Selection


def trial(folder: Path, name: str, values: list[float], state: str = "done", **config: Any) -> Record:
    record = Record(folder / name, name, "sweep", "f" * 64)
    record.folder.mkdir(parents=True)
    status = {"state": state, "fingerprint": "f" * 64, "reason": config.pop("reason", None)}
    (record.folder / "status.json").write_text(json.dumps(status))
    full = {"role": "trial", "evaluation": {"split": "validation"}, **config}
    (record.folder / "config.json").write_text(json.dumps(full))
    rows = [{"prompt_id": str(i), "preference": v, "scores": {"utility": -v}} for i, v in enumerate(values)]
    (record.folder / "judgements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return record


def test_the_best_mean_wins_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    trials = [trial(tmp_path, str(i), values) for i, values in enumerate([[0, 0.5], [1, 0.5], [0.5, 1]])]
    assert best(trials, "preference") == 1
    assert best(trials, "utility") == 0, "another score, another winner"
    with pytest.raises(
        SelectionError, match=r"tune\.score: the judge gave no 'wit'; choose one of preference, utility"
    ):
        best(trials, "wit")


def test_a_diverged_trial_is_lost_and_any_other_failure_holds_the_winner_back(tmp_path: Path) -> None:
    good = [trial(tmp_path, "0", [0.5]), trial(tmp_path, "1", [0.75])]
    diverged = trial(tmp_path, "2", [], "failed", reason="TrainingDivergedError: step 2: the loss is nan")
    assert best([*good, diverged], "preference") == 1
    with pytest.raises(NotYet, match="all 1 trials diverged"):
        best([diverged], "preference")
    for state, reason in [("failed", "OSError: disk full"), ("preempted", "SIGTERM"), ("running", None)]:
        other = trial(tmp_path, f"other-{state}", [1.0], state, reason=reason)
        with pytest.raises(NotYet, match=rf"once all 3 trials are done \(trials 2 {state}\)"):
            best([*good, other], "preference")


@pytest.mark.parametrize(
    "config",
    [{"evaluation": {"split": "test"}}, {"evaluation": {"split": "all"}}, {"evaluation": {}}, {"role": "final"}],
)
def test_selection_reads_no_score_but_a_trial_s_on_validation_prompts(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match="is not a trial on validation prompts"):
        validation_score(trial(tmp_path, "x", [1.0], **config), "preference")


# Cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    tiny_model().save_pretrained(folder / "checkpoint")
    tiny_tokenizer().save_pretrained(folder / "checkpoint")
    rows = [{"prompt": f"w{i}", "chosen": f"w{i + 2} w{i + 3}", "rejected": f"w{i} w{i} w{i}"} for i in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_judge.py").write_text("def prefer(instruction, a, b):\n    return 1 if len(a) <= len(b) else 2\n")
    return folder


def small(folder: Path, *overrides: str) -> list[str]:
    return [
        "model=hub",
        f"model.path={folder / 'checkpoint'}",
        "model.name=tiny",
        "feedback=jsonl",
        f"feedback.path={folder / 'pairs.jsonl'}",
        "feedback.heldout_fraction=0.4",
        "start=base",
        "train.completions_per_step=4",
        "train.warmup_fraction=0.0",
        "evaluation.generation.max_new_tokens=4",
        "judge@evaluation.judge=callable",
        "evaluation.judge.function=small_run.shorter",
        "budget={completions: 8}",
        "tune={trials: 3, scale: {learning_rate: 1000}}",
        "tracking=none",
        "sweep=tuned",
        f"artifacts={folder / 'artifacts'}",
        f"results={folder / 'results'}",
        *overrides,
    ]


Split = Callable[..., Cells]


@pytest.fixture
def split_grid(folder: Path) -> Iterator[Split]:
    """``split`` of a grid of losses by seeds, within Hydra."""

    def cells(*overrides: str, losses: str = "dpo,kto,none", seeds: str = "0,1") -> Cells:
        base = small(folder, *overrides)
        node: DictConfig = compose("config", base, return_hydra_config=True)
        grid = [[*base, f"loss={loss}", f"seed={seed}"] for loss in losses.split(",") for seed in seeds.split(",")]
        return split(node, grid)

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield cells


def test_trials_first_then_winners_on_other_seeds_and_prompts(split_grid: Split) -> None:
    before = split_grid()
    trials = [resolve(compose("config", cell)) for cell in before.trials]
    assert [(config.loss_name, config.run.seed, config.run.trial) for config in trials] == [
        (loss, 1000, number) for loss in ("dpo", "kto") for number in range(3)
    ]
    assert all(config.evaluation.split == "validation" for config in trials)
    assert {config.loss_name for config in map(resolve, map(compose_cell, before.finals))} == {"none"}
    assert [reason.rpartition("loss=")[2][:3] for reason in before.waiting] == ["dpo", "kto"]
    for config in trials:
        assert execute(config) == "done"
    records = [describe(config)[1] for config in trials]
    scores = [validation_score(record, "preference") for record in records]

    after = split_grid()
    assert after.trials == before.trials
    assert after.waiting == []
    finals = [resolve(compose_cell(cell)) for cell in after.finals]
    assert [(config.loss_name, config.run.seed) for config in finals] == [
        (loss, seed) for loss in ("dpo", "kto", "none") for seed in (0, 1)
    ]
    assert all(config.evaluation.split == "test" and config.run.role == "final" for config in finals)
    for first, config in ((0, finals[0]), (3, finals[2])):
        won = first + scores[first : first + 3].index(max(scores[first : first + 3]))
        assert config.run.trial == trials[won].run.trial
        assert config.loss == trials[won].loss
        assert config.train == trials[won].train
        assert execute(config) == "done"

    def prompts(config: Any) -> set[str]:
        rows = (describe(config)[1].folder / "completions.jsonl").read_text().splitlines()
        return {json.dumps(json.loads(row)["prompt"]) for row in rows}

    assert prompts(trials[0]) == prompts(trials[4])
    assert prompts(finals[0]) == prompts(finals[2])
    assert prompts(trials[0])
    assert not prompts(trials[0]) & prompts(finals[0])

    sweep = Sweep.load("tuned", finals[0].run.results)
    assert len(sweep.trials) == 6
    assert sorted(sweep.runs["run"]) == sorted(describe(finals[i])[0].name for i in (0, 2))
    assert set(sweep.runs["setting"]) == {""}
    assert set(sweep.runs["method"]) == {"dpo", "kto"}
    assert set(sweep.budgets["matched"]) == {"completions: 8"}


def compose_cell(cell: list[str]) -> DictConfig:
    return compose("config", cell)


def test_another_loss_or_seed_changes_no_other_cell(split_grid: Split) -> None:
    few, many = split_grid(losses="dpo"), split_grid(losses="kto,dpo,simpo", seeds="0,1,2")
    assert all(cell in many.trials for cell in few.trials)
    assert len(few.trials) == 3
    assert len(many.trials) == 9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.seed=1"], r"tune\.seed: 1 is one of the sweep's seeds \(0, 1\)"),
        (["tune.wit=fixed"], r"tune\.wit: no loss of this sweep has such a parameter .* known are beta, learning_rate"),
        (["train.nodes=2"], r"tune: train\.nodes is 2, and a command that runs on several machines"),
        (["tune.scale.odds_weight=2"], r"tune\.odds_weight: no loss of this sweep"),
        (["+space.wit=[1,2]"], r"space\.wit: 'dpo' has no parameter 'wit'; known are beta"),
    ],
)
def test_a_tuning_that_makes_no_sense_is_refused(split_grid: Split, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_grid(*[f"+{one}" if one.startswith("tune") else one for one in overrides], losses="dpo")


def test_a_trial_may_see_no_test(folder: Path, split_grid: Split) -> None:
    for overrides, message in [
        (["++role=trial"], r"evaluation\.split: 'all' is not allowed for role=trial: choose 'validation'"),
        (["++role=final", "++evaluation.split=validation"], "choose 'test'"),
        (["++role=trial", "++evaluation.split=validation", "evaluation.judge=null"], r"evaluation\.judge: tuning"),
        (
            ["++role=trial", "++evaluation.split=validation", "evaluation.benchmarks={tasks: [sandbox_facts]}"],
            r"evaluation\.benchmarks: a trial must not see a test",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            resolve(compose("config", small(folder, *overrides)))


def test_a_tuned_multirun_that_is_killed_among_its_trials_goes_on(folder: Path) -> None:
    """Both batches in one command, on two processes. A trial that diverged is a result, and not tried again."""
    command = [str(Path(sys.executable).parent / "kto-bench"), "-m", "loss=dpo,none", "seed=0", "refused=skip"]
    command += small(folder, "evaluation.judge.function=my_judge.prefer", "sweep=typed", "hydra/launcher=processes")
    # Of the three settings, one diverges at once and one cannot be run.
    command += ["+tune.learning_rate=[1e30]", "+tune.beta=[0.1,-1]"]
    records = folder / "results" / "typed"

    def states() -> dict[tuple[str, ...], str]:
        found = {}
        for path in records.glob("*/status.json"):
            with suppress(FileNotFoundError):  # a run that begins removes what is there
                labels = json.loads(path.with_name("run.json").read_text())["labels"]
                state = json.loads(path.read_text())["state"]
                found[labels["loss"], labels.get("role", ""), str(labels.get("trial", ""))] = state
        return found

    def launch(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], cwd=folder, capture_output=True, text=True, timeout=300)

    log = folder / "killed.log"
    with log.open("w") as to, subprocess.Popen(command, cwd=folder, stderr=to, start_new_session=True) as killed:
        deadline = time.monotonic() + 240
        while states().get(("dpo", "trial", "0")) not in ("running", "done") and time.monotonic() < deadline:
            assert killed.poll() is None, log.read_text()
            time.sleep(0.05)
        os.killpg(killed.pid, signal.SIGKILL)
    assert ("dpo", "final", "0") not in states()
    done = launch()
    assert done.returncode == 0, done.stderr
    settled = states()
    assert settled.pop(("dpo", "", "")) == "skipped"
    assert settled == {
        ("dpo", "trial", "0"): "done",
        ("dpo", "trial", settled_trial(settled)): "failed",
        ("dpo", "final", "0"): "done",
        ("none", "final", "None"): "done",
    }
    before = {path: path.stat().st_mtime_ns for path in records.rglob("*")}
    again = launch("retry=failed")
    assert again.returncode == 0, again.stderr
    assert "1 trials lost (their training diverged)" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in records.rglob("*")} == before


def settled_trial(states: dict[tuple[str, ...], str]) -> str:
    """The number of the trial that could be run beside trial 0."""
    return next(trial for _, role, trial in states if role == "trial" and trial != "0")
