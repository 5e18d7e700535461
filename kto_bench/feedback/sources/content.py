"""What files hold, for fingerprints: moving a file changes nothing, editing it does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from kto_bench.checksums import sha256_of
from kto_bench.feedback.types import FeedbackError


def digests_of(files: Sequence[Path], root: Path | None = None) -> list[list[str]]:
    """Name (in the folder ``root``, its path there) and SHA-256 of each file.

    Raises FeedbackError for one that cannot be read.
    """
    return [[name_of(file, root), _sha256(file)] for file in files]


def name_of(file: Path, root: Path | None) -> str:
    """What a file is called: its path in the folder ``root``, or just its name where that is not a folder around it."""
    return file.relative_to(root).as_posix() if root is not None and root in file.parents else file.name


def _sha256(file: Path) -> str:
    """Of the content, which a process reads once while size and time stay: a sweep describes many cells."""
    try:
        status = file.stat()
        return _digest(file.resolve(), status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise FeedbackError(f"{file}: cannot be read ({error})") from error


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    return sha256_of(file)
