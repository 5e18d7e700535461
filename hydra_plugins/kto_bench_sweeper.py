"""Where Hydra looks for plugins: the sweeper of ``kto-bench``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class TunedSweeper(BasicSweeper):
    """Hydra's basic sweeper; where a sweep says ``tune``, first the trials as one batch, then the winners as another.

    What the cells are is decided in ``kto_bench.tuning.cells``.
    """

    _grid: list[list[str]] | None = None
    """The cells whose winners are the next batch."""
    _next: Sequence[Sequence[str]] = ()

    def is_done(self) -> bool:
        """Whether no batch is left; otherwise the next one is ready. Hydra asks before each batch."""
        from kto_bench.tuning.cells import split

        assert self.config is not None
        while True:
            if self._grid is not None:
                cells = split(self.config, self._grid)
                self._next, self._grid = cells.finals, None
                for reason in cells.waiting:
                    print(f"kto-bench: {reason}", file=sys.stderr)
            elif super().is_done():
                return True
            else:
                self._next = super().get_job_batch()
                if self.config.get("tune") is not None:
                    self._grid = [list(cell) for cell in self._next]
                    self._next = split(self.config, self._grid).trials
            if self._next:
                return False

    def get_job_batch(self) -> Sequence[Sequence[str]]:
        """The batch that ``is_done`` has made ready."""
        return self._next
