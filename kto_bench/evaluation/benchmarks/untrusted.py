"""Run one program that nobody has read. Standard input: a secret line, then the program. For code_execution.py only.

Started as a process of its own with a clean environment in an empty folder. Prints where the network was cut off, then
the secret if the program came to its end without an error; a program that exits early never gets there.

A guard against accidents and clumsy tricks, not a wall against an attacker: run what you do not trust in a container.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

# Events of sys.addaudithook that reach out of the process; https://docs.python.org/3/library/audit_events.html
FORBIDDEN = (
    "socket.",
    "subprocess.",
    "pty.",
    "ftplib.",
    "http.",
    "urllib.",
    "smtplib.",
    "webbrowser.",
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "os.kill",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "shutil.",
    "ctypes.dlopen",
    "ctypes.dlsym",
)
"""``ctypes`` itself can be imported, as many packages do."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def cut_network() -> bool:
    """Move to a network namespace without any interface; False where the system does not allow it."""
    try:
        if hasattr(os, "unshare"):
            os.unshare(CLONE_NEWUSER | CLONE_NEWNET)
            return True
        import ctypes

        return ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0
    except (OSError, AttributeError):
        return False


def limit(seconds: float, bytes_of_memory: int) -> None:
    """Time, memory, size of files, no core dumps; set hard, so that the program cannot raise them again.

    The clock on the wall gets twice the time of the processor, since programs share the cores. It can be stopped by a
    program that means to; whoever started this process kills it then.
    """
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
    for which, most in (
        (resource.RLIMIT_CPU, math.ceil(seconds)),
        (resource.RLIMIT_AS, bytes_of_memory),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(which, (most, most))


def forbid() -> None:
    """Refuse, for the rest of this process, what reaches out of it and its folder; a hook cannot be taken off."""
    import _posixsubprocess  # of which no event tells, and which multiprocessing starts processes with
    import ctypes  # noqa: F401  its import opens the interpreter itself as a library

    def refused(*arguments: Any) -> int:
        raise PermissionError("starting a process is not allowed here")

    _posixsubprocess.fork_exec = refused
    here = os.path.realpath(".") + os.sep

    def elsewhere(path: Any) -> bool:
        return not isinstance(path, int) and not os.path.realpath(os.fsdecode(path)).startswith(here)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & WRITES
            if writes and elsewhere(path):
                raise PermissionError(f"writing {path} is not allowed here")
        if event in ("os.mkdir", "sqlite3.connect") and arguments[0] != ":memory:" and elsewhere(arguments[0]):
            raise PermissionError(f"writing {arguments[0]} is not allowed here")

    sys.addaudithook(hook)


def main(seconds: float, bytes_of_memory: int) -> None:
    """Read, confine, run, and say whether the end was reached."""
    secret, _, program = sys.stdin.buffer.read().partition(b"\n")
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    limit(seconds, bytes_of_memory)
    os.write(answers, b"namespace\n" if cut_network() else b"audit hook\n")
    code = compile(program, "<program>", "exec")
    forbid()
    exec(code, {})  # with an empty name, so that `if __name__ == "__main__"` stays asleep, as in OpenAI's execution
    os.write(answers, secret)


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if Path(path) != Path(__file__).parent]  # nothing of the suite by accident
    main(float(sys.argv[1]), int(sys.argv[2]))
