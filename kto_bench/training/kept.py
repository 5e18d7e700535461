"""Policies that a training keeps on its way, so that they can be evaluated as well as the one at its end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from kto_bench.store import sync
from kto_bench.training.processes import Processes

KEPT = "kept"
"""Folder of what is kept, as long as training goes on."""


class KeptPolicies:
    """The policies after some of the steps, ``step-N`` each; they survive a kill of the training."""

    def __init__(self, folder: Path, steps: Sequence[int], save: Callable[[Path], None]) -> None:
        """``folder`` is that of the training's saved states, which all processes see. ``save(folder)`` is called by
        every process and fills an empty folder with the policy as it is."""
        self._folder, self._steps, self._save = folder / KEPT, frozenset(steps), save

    def after(self, step: int) -> None:
        """Keep the policy if ``step`` is one of those asked for. Every process calls it, after each step."""
        if step not in self._steps:
            return
        final, first = self._folder / f"step-{step}", Processes().first
        partial = final.with_suffix(".partial")
        if first:
            for leftover in (partial, final):  # of a process that was killed after it, and goes on from before it
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
        self._save(partial)
        if first:
            for path in [*partial.rglob("*"), partial]:
                sync(path)
            partial.rename(final)
            sync(self._folder)

    def check(self, done: int) -> None:
        """Raise FileNotFoundError where a policy is gone that the ``done`` steps so far must have left."""
        gone = sorted(step for step in self._steps if step <= done and not (self._folder / f"step-{step}").is_dir())
        if gone:
            raise FileNotFoundError(
                f"training goes on from step {done}, but the policy of step {gone[0]} is not in {self._folder}; delete "
                f"{self._folder.parent} to train afresh"
            )

    def put_into(self, folder: Path) -> None:
        """Put them into the artifact at the end of the training. The first process calls it.

        They stay where they are as well: the artifact is not whole yet.
        """
        for step in sorted(self._steps):
            shutil.copytree(self._folder / f"step-{step}", folder / f"step-{step}", copy_function=_link)


def _link(source: str, target: str) -> None:
    """The same file in both places where the disk can do that, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
