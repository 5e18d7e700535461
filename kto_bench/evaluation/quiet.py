"""Silence for libraries that print, log and draw progress bars as they please."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager


@contextlib.contextmanager
def quiet() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Swallow what is printed and logged inside, and leave the root logger as it was found.

    Yields a context manager inside which output shows again, for progress of our own. Errors pass through.
    """
    root, stdout, stderr = logging.getLogger(), sys.stdout, sys.stderr
    level, handlers = root.level, root.handlers[:]
    root.handlers[:] = [logging.NullHandler()]

    @contextlib.contextmanager
    def loud() -> Iterator[None]:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            yield

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield loud
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
