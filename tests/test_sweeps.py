"""The sweeps of the literature: all their cells can be run, and they are as many as their comments say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from places import ROOT

from kto_bench.composition import Composer
from kto_bench.config import Config, resolve
from kto_bench.run import Plan, describe

FOLDER = ROOT / "sweeps"
NAMES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))
OTHERS = ("quickstart", "tuned-sandbox")
"""Sweeps that show how the suite is used, and repeat nobody's study."""
LITERATURE = [name for name in NAMES if name not in OTHERS]
OURS = ("ladder",)
"""Studies of nobody else's, on real data: they have no twin on the sandbox."""
LABORATORY = [name for name in NAMES if name.startswith("laboratory/")]
"""Experiments of the suite's own, on the sandbox."""
STUDIES = [name for name in LITERATURE if "-sandbox" not in name and name not in LABORATORY]
COMMAND = str(Path(sys.executable).parent / "kto-bench")
FILES = [f"simpo/{model}" for model in ("zephyr_sft", "mistral_7b_instruct", "llama3_8b_sft", "llama3_8b_instruct")]


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a little feedback or text in every file that a sweep asks for, and no model."""
    folder = tmp_path_factory.mktemp("sweeps")
    for name in FILES:
        path = folder / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{name} {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(8)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data" / "text").mkdir()
    (folder / "data" / "text" / "some.txt").write_text("one document\n\nanother one\n")
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        patch.chdir(folder)
        yield folder


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text()


@cache
def cells_of(name: str) -> list[tuple[Config, Plan]]:
    """Every cell of a sweep, described."""
    whole = compose("config", [f"+sweeps={name}"], return_hydra_config=True)
    params = [f"{key}={value}" for key, value in (whole.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, f"+sweeps={name}"])
    composer, cells = Composer("config"), []
    for batch in BasicSweeper.split_arguments(overrides, max_batch_size=None):
        for cell in batch:
            config = resolve(composer.compose(cell))
            cells.append((config, describe(config)[0]))
    return cells


@pytest.mark.parametrize("name", LITERATURE)
def test_its_cells_and_stages_are_as_many_as_its_comment_says(name: str) -> None:
    said = re.search(r"^# Cells: (\d+)\.(?: Distinct runs: (\d+)\.)? Distinct stages: (.*)\.$", text_of(name), re.M)
    assert said is not None
    cells = cells_of(name)
    assert len(cells) == int(said[1])
    assert len({plan.name for _, plan in cells}) == int(said[2] or said[1])
    stages = {stage.fingerprint: stage.name for _, plan in cells for stage in plan.stages.values()}
    assert dict(Counter(stages.values())) == {
        stage: int(count) for count, stage in (part.split() for part in said[3].split(", "))
    }
    folder = {config.run.sweep for config, _ in cells}
    own = name.replace("/", "_") if name in LABORATORY else name.partition("/")[0]
    assert folder == {own}, "a sweep's records are in a folder of its name"


@pytest.mark.parametrize("name", LITERATURE)
def test_its_comment_says_what_it_feeds_what_it_costs_and_how_to_run_it(name: str) -> None:
    head = text_of(name).partition("defaults:")[0]
    assert "\n# Cost: " in head
    assert f"kto-bench -m +sweeps={name if name in LABORATORY else name.partition('/')[0]}" in head
    if name in STUDIES:
        assert re.search(r"Figure|Table|table|Eq\.", head)
        assert "\n# Needs: " in head


@pytest.mark.parametrize("name", [name for name in STUDIES if name not in OURS])
def test_it_has_a_twin_on_the_sandbox(name: str) -> None:
    first, slash, rest = name.partition("/")
    twin = cells_of(f"{first}-sandbox{slash}{rest}")
    assert all(config.model.name.startswith("sandbox") for config, _ in twin)


def test_the_scale_study_has_the_settings_of_its_authors() -> None:
    cells = [config for config, _ in cells_of("kto_scale")]
    assert len({config.model.name for config in cells}) == 7
    assert Counter((config.loss_name, config.start.name) for config in cells) == {
        (loss, start): 7 for loss in ("none", "csft", "slic", "dpo", "ppo", "kto") for start in ("base", "sft")
    }
    for config in cells:
        assert (config.start.train is None) == (config.start.name == "base")
        for train in filter(None, (config.train, config.start.train)):
            assert (train.optimizer, train.learning_rate, train.schedule) == ("rmsprop", 5e-7, "constant")
            assert (train.epochs, train.max_grad_norm) == (1, 10)
            assert train.max_prompt_tokens + train.max_completion_tokens == 2048
        # 32 pairs, or 32 completions
        paired = config.loss_name not in ("kto", "csft")
        assert config.train.completions_per_step == (64 if paired else 32)
        assert (config.evaluation.generation.temperature, config.evaluation.generation.top_p) == (1.0, 0.95)
        if config.loss_name in ("dpo", "kto"):
            assert config.plain["loss"]["beta"] == 0.1
        if config.loss_name == "slic":
            assert (config.plain["loss"]["delta"], config.plain["loss"]["regularisation"]) == (1.0, 0.1)
        if config.loss_name == "ppo":
            assert (config.plain["loss"]["clip_low"], config.plain["loss"]["clip_high"]) == (0.5, 2.0)


def test_corrected_weights_make_up_for_what_is_left_out() -> None:
    """desirable_weight n_D / (undesirable_weight n_U) is the study's 4/3, or what it is at equal weights."""
    ratios: Counter[str] = Counter()
    for config, _ in cells_of("kto_imbalance"):
        loss, feedback = config.plain["loss"], config.feedback
        numbers = feedback.keep_desirable / feedback.keep_undesirable
        ratio = loss["desirable_weight"] * numbers / loss["undesirable_weight"]
        equal = loss["desirable_weight"] == loss["undesirable_weight"] == 1
        assert equal or ratio == pytest.approx(4 / 3, rel=1e-4)
        ratios["equal" if equal else "corrected"] += 1
        assert config.start.name == "base"
    assert ratios == {"equal": 12, "corrected": 12}


def test_the_family_is_every_loss() -> None:
    losses = {config.loss_name for config, _ in cells_of("loss_family-sandbox")}
    assert losses == {path.stem for path in (ROOT / "conf" / "loss").glob("*.yaml")}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "-m", "+sweeps=simpo_table/dpo"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "feedback.path: data/simpo/zephyr_sft.jsonl does not exist" in done.stderr
    assert "in 12 cell(s)" in done.stderr


def test_a_twin_runs(tmp_path: Path) -> None:
    """The smallest, on less of everything: from pretraining to the judge's verdict on one completion per prompt."""
    small = [
        "model=sandbox_tiny",
        "model.pretrain.tokens=4096",
        "feedback.pairs=60",
        "seed=0",
        "train.steps=3",
        "train.completions_per_step=8",
        "evaluation.prompts.count=8",
        "evaluation.generation.max_new_tokens=8",
        "evaluation.benchmarks=null",
        "tracking=none",
        "hydra.launcher.n_jobs=1",
    ]
    twin = "one_completion_per_prompt-sandbox"
    done = subprocess.run(
        [COMMAND, "-m", f"+sweeps={twin}", *small], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "results" / twin).iterdir())
    losses = Counter(json.loads((run / "status.json").read_text())["state"] for run in runs)
    assert losses == {"done": 4}
    kept = [json.loads((run / "data.json").read_text()).get("subsample") for run in runs]
    assert [one["rows"] for one in kept if one] == [one["kept"]["prompts"] for one in kept if one] != []
    assert all(json.loads((run / "scores.json").read_text())["head_to_head"] is not None for run in runs)
