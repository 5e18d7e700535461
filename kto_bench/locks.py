"""Locks between processes, of one host or of several that share a file system.

The file system must offer ``flock`` between hosts: NFS 4 does, NFS 3 with its lock daemon, GPFS, and Lustre where it is
mounted with ``-o flock`` (with ``localflock`` each host has locks of its own: two may do the same work at once, and the
first to finish counts). A lock ends with the process that holds it, however that ends; where a whole host went away,
once the server gives up on it, after a minute or two.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

CANNOT_LOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class LockError(OSError):
    """The file system cannot lock files."""


_told: list[Callable[[bool], None]] = []


def tell_of_waiting(told: Callable[[bool], None]) -> None:
    """Have ``told`` called with True when this process begins to wait for a lock, and with False when it has it.

    For whoever looks at how long this process takes: waiting is no sign of having stopped.
    """
    _told.append(told)


def _tell(waiting: bool) -> None:
    for told in _told:
        told(waiting)


def locked(path: Path, on_wait: Callable[[str], None]) -> FileLock:
    """Take the lock at ``path``, waiting as long as it takes; release it by leaving it as a context manager.

    ``on_wait(holder)`` is called once if another process holds it. The operating system frees the lock of a killed one.
    Raises LockError where the file system cannot lock.
    """
    holder, lock = path.with_suffix(".holder"), FileLock(path)
    try:
        _acquire(lock, timeout=1)
    except Timeout:
        text = holder.read_text(encoding="utf-8") if holder.exists() else ""
        on_wait(text or "another process")
        _tell(True)
        try:
            _acquire(lock, timeout=-1)
        finally:
            _tell(False)
    with suppress(OSError):  # a courtesy to those who wait
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return lock


def _acquire(lock: FileLock, timeout: float) -> None:
    try:
        lock.acquire(timeout=timeout, poll_interval=0.2)
        if not isinstance(lock, SoftFileLock):
            return
        lock.release()  # a file that merely exists: it would outlive a killed process
        code = errno.ENOSYS
    except (OSError, NotImplementedError) as error:
        code = getattr(error, "errno", None) or errno.ENOSYS
        if isinstance(error, Timeout) or code not in CANNOT_LOCK:
            raise
    raise LockError(
        code,
        f"{os.strerror(code)}: the file system cannot lock files (flock), without which two processes would do the "
        "same work; choose artifacts=FOLDER on one that can",
        str(lock.lock_file),
    )
