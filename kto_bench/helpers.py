"""Helpers: processes that share the work of one, and are gone when it is done or that one ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def available() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def helpers(count: int, begin: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """``count`` processes, each of which has called ``begin(*arguments)`` before it is given anything to do.

    They are forked where that is safe, which costs no imports and no copies of ``arguments``.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(count, context, _begin, (os.getpid(), begin, *arguments)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begin(parent: int, begin: Callable[..., None], *arguments: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # the parent stops its helpers
        signal.signal(number, signal.SIG_IGN)
    begin(*arguments)

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
