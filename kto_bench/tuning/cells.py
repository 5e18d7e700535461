"""The cells of a tuned multirun: trials of every loss on one seed, and the winners on the sweep's own seeds.

    every cell of the grid without its seed ──► trials 0 .. n-1 on tune.seed, asked validation prompts
                                                     │  the best by tune.score (selection.py)
                                                     └──► its settings on each seed of the grid, asked test prompts

All of it follows from the configuration and from the records of the trials, so a relaunch finds the same cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kto_bench.component import ConfigError, validate
from kto_bench.composition import Composer
from kto_bench.config import resolve
from kto_bench.feedback.types import FeedbackError
from kto_bench.record import Record
from kto_bench.run import describe
from kto_bench.tuning.selection import NotYet, best
from kto_bench.tuning.spaces import Settings, Tune, draws, field_of

Overrides = list[str]


@dataclass(frozen=True)
class Cells:
    """Overrides of each cell. ``finals`` are those that can be run now; ``waiting`` says why others cannot."""

    trials: list[Overrides] = field(default_factory=list)
    finals: list[Overrides] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    @property
    def known(self) -> list[Overrides]:
        """All cells whose settings are known."""
        return [*self.trials, *self.finals]


def split(config: DictConfig, grid: Sequence[Overrides]) -> Cells:
    """The trials and finals that the cells of ``grid`` become; ``grid`` itself, as finals, where nothing is tuned.

    ``config`` is that of the multirun. Raises ConfigError where a loss cannot be tuned as the sweep says.
    """
    if config.get("tune") is None:
        return Cells(finals=[list(cell) for cell in grid])
    tune = validate(Tune, OmegaConf.to_container(config.tune, resolve=True), "tune")  # type: ignore[arg-type]
    _refuse_seeds(tune, config, grid)
    cells, parameters = Cells(), set()
    composer = Composer(config.hydra.job.config_name, list(config.hydra.overrides.hydra))
    groups: dict[tuple[str, ...], list[Overrides]] = {}
    for cell in grid:
        groups.setdefault(tuple(one for one in cell if _key(one) != "seed"), []).append(list(cell))
    for group, finals in groups.items():
        node = composer.compose([*group, f"seed={tune.seed}"])
        plain: Any = OmegaConf.to_container(node, resolve=False)
        parameters |= set(plain.get("space") or {})
        try:
            resolved = resolve(node)
        except (ConfigError, FeedbackError):  # it cannot be run; whoever runs the cells says why
            cells.finals.extend(finals)
            continue
        if resolved.train.nodes > 1:
            raise ConfigError(
                f"tune: train.nodes is {resolved.train.nodes}, and a command that runs on several machines cannot tell "
                "all of them at once which settings won; choose train.nodes=1, or run trials as a sweep of their own"
            )
        if resolved.loss is None:
            cells.finals.extend([*cell, *_role("final", None)] for cell in finals)
            continue
        space = tune.space_of(resolved.loss_name, resolved.run.space)
        default = {name: _value(resolved.plain, field_of(name)) for name in space}
        tried = draws(resolved.loss_name, tune, space, default)
        trials = [
            [*group, f"seed={tune.seed}", *_settings(settings if trial else {}), *_role("trial", trial)]
            for trial, settings in enumerate(tried)
        ]
        cells.trials.extend(trials)
        try:
            won = best([_record(composer.compose(trial)) for trial in trials], tune.score)
        except NotYet as reason:
            cells.waiting.append(f"{' '.join(group)}: {reason}")
            continue
        chosen = _settings(tried[won] if won else {})
        cells.finals.extend([*cell, *chosen, *_role("final", won)] for cell in finals)
    unknown = {*tune.scale, *tune.chosen} - parameters
    if unknown and parameters:
        raise ConfigError(
            f"tune.{sorted(unknown)[0]}: no loss of this sweep has such a parameter in its space; known are "
            f"{', '.join(sorted(parameters))}, and of tuning itself {', '.join(Tune.model_fields)}"
        )
    return cells


def _record(node: DictConfig) -> Record | None:
    """The record of a trial, or None where it cannot be run; whoever runs the cells says why."""
    try:
        return describe(resolve(node))[1]
    except (ConfigError, FeedbackError):
        return None


def _refuse_seeds(tune: Tune, config: DictConfig, grid: Sequence[Overrides]) -> None:
    seeds = {one.partition("=")[2] for cell in grid for one in cell if _key(one) == "seed"} or {str(config.seed)}
    if str(tune.seed) in seeds:
        raise ConfigError(
            f"tune.seed: {tune.seed} is one of the sweep's seeds ({', '.join(sorted(seeds))}), and winners are rerun "
            "on fresh ones; choose another number"
        )


def _role(role: str, trial: int | None) -> Overrides:
    """What makes a cell a trial or a final run."""
    number = [] if trial is None else [f"++trial={trial}"]
    if role == "final":
        return ["++role=final", *number, "++evaluation.split=test"]
    return ["++role=trial", *number, "++evaluation.split=validation", "++evaluation.benchmarks=null"]


def _settings(settings: Settings) -> Overrides:
    return [f"++{field_of(name)}={value!r}" for name, value in settings.items()]


def _value(plain: Mapping[str, Any], path: str) -> Any:
    """What the configuration has at ``path``. Raises ConfigError where it has nothing."""
    group, _, name = path.partition(".")
    if name not in plain[group]:
        raise ConfigError(
            f"space.{name}: {plain['loss'].get('name')!r} has no parameter {name!r}; known are "
            f"{', '.join(key for key in plain['loss'] if key not in ('name', '_target_'))}, and the fields of train"
        )
    return plain[group][name]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
