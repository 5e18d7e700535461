"""Where Hydra looks for plugins: the launcher of ``hydra/launcher=slurm``."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher


class MissingCells(SlurmLauncher):
    """hydra-submitit-launcher's, which submits only what is to be run.

    A job that waits in a queue for its GPUs only to find that its cell is done would hold up a relaunch for nothing.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit one array and wait for it; what is left out has no result here, but its record."""
        from kto_bench.composition import Composer

        assert self.config is not None
        composer = Composer(self.config.hydra.job.config_name, list(self.config.hydra.overrides.hydra))
        missing = [overrides for overrides in job_overrides if _is_missing(composer, overrides)]
        return super().launch(missing, initial_job_idx) if missing else []


def _is_missing(composer: object, overrides: Sequence[str]) -> bool:
    """Whether a cell is to be run: it is not done, has not failed without being asked for again, and is not refused."""
    from kto_bench.component import ConfigError
    from kto_bench.composition import Composer
    from kto_bench.config import resolve
    from kto_bench.feedback.types import FeedbackError
    from kto_bench.run import describe

    assert isinstance(composer, Composer)
    try:
        config = resolve(composer.compose(overrides))
        state = describe(config)[1].state()
    except (ConfigError, FeedbackError):
        return False  # the ledger has recorded or reported it
    return state != "done" and not (state == "failed" and config.run.retry == "none")
