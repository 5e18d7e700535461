"""W&B as a mirror of the record: offline by default, one W&B run per run, closed in every case.

The files under ``results/`` are the record; losing W&B loses nothing, and nothing here ever waits for a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from kto_bench.component import ConfigError
from kto_bench.config import Config, TrackingConfig
from kto_bench.mirror import SAMPLES_TABLE, is_signed_in, label_keys, step_keys, summary_keys, wandb_id

SAMPLES = 32
"""Completions in the W&B table."""
COLUMNS = ("prompt_id", "prompt", "completion", "reference", "tokens", "ended", "preference")


def check_tracking(tracking: TrackingConfig) -> None:
    """Refuse online tracking without a key before any compute, rather than let W&B ask for one."""
    if tracking.mode != "online":
        return
    try:
        problem = "" if is_signed_in() else "needs a W&B key"
    except Exception as error:  # a key of no valid form, say
        problem = f"needs a W&B key that it can use ({error})"
    if problem:
        raise ConfigError(
            f"tracking.mode: 'online' {problem}; set WANDB_API_KEY or `wandb login`, or choose tracking=offline"
        )


class WandbMirror:
    """A context manager around one W&B run. Leaving it with an exception marks the W&B run as failed."""

    def __init__(self, config: Config, run: str, fingerprint: str, say: Callable[[str], None]) -> None:
        """Nothing is opened yet. ``say`` tells the user when W&B cannot be had."""
        self._config, self._name, self._fingerprint, self._say = config, run, fingerprint, say
        self._run: Any = None
        self._logged = 0

    def __enter__(self) -> WandbMirror:
        tracking = self._config.tracking
        if tracking.mode == "none":
            return self
        with self._forgiving():
            tracking.folder.mkdir(parents=True, exist_ok=True)
            self._run = self._open(tracking)
        return self

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Losing the mirror must not lose the run: whatever W&B raises is told once, and W&B is left alone."""
        try:
            yield
        except Exception as error:
            self._run = None
            self._say(f"W&B failed, the run goes on without it: {type(error).__name__}: {error}")

    def _open(self, tracking: TrackingConfig) -> Any:
        import wandb

        return wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            id=wandb_id(self._config.run.sweep, self._fingerprint),
            name=self._name,
            group=self._config.run.sweep,
            tags=[str(value) for key, value in self._config.labels.items() if key != "seed"],
            config={**self._config.plain, **label_keys(self._config.labels)},
            dir=str(tracking.folder),
            mode="online" if tracking.mode == "online" else "offline",
            resume="allow",
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            with self._forgiving():
                self._run.finish(exit_code=0 if error is None else 1)

    def log(self, metrics: Mapping[str, float], timing: Mapping[str, float] | None = None) -> None:
        """One optimiser step, and how fast it was where that is known. Steps that were already logged are left out."""
        if self._run is not None and metrics["step"] > self._logged:
            self._logged = int(metrics["step"])
            with self._forgiving():
                values = step_keys(metrics)
                values |= {f"timing/{key}": value for key, value in (timing or {}).items() if key != "step"}
                self._run.log(values, step=self._logged)

    def finish(
        self, history: Iterable[Mapping[str, float]], scores: Mapping[str, Any], rows: list[dict[str, Any]]
    ) -> None:
        """Training history as far as it was not logged live, the scores as summary, and sample completions."""
        for metrics in history:
            self.log(metrics)
        if self._run is not None:
            with self._forgiving():
                self._finish(scores, rows)

    def _finish(self, scores: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        import wandb

        self._run.summary.update(summary_keys(scores))
        if rows:
            table = wandb.Table(columns=list(COLUMNS))
            for row in rows[:SAMPLES]:
                prompt = "\n".join(f"{message['role']}: {message['content']}" for message in row["prompt"])
                table.add_data(*[prompt if column == "prompt" else row.get(column) for column in COLUMNS])
            self._run.log({SAMPLES_TABLE: table})
