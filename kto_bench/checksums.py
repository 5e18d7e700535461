"""What an artifact holds: its manifest with the checksums of its files, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "stage.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What an artifact says of itself. Raises OSError or ValueError where that cannot be read."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError(f"{folder / MANIFEST} holds no mapping")
    return manifest


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file below ``folder`` but the manifest, by its path within."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST:
            found[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return found


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_whole: set[tuple[str, int, int]] = set()
"""The artifacts that this process has found whole; checkpoints are large, and are not read again and again."""


def _version_of(folder: Path) -> tuple[str, int, int]:
    """What tells an artifact from one that was built again in its place."""
    status = (folder / MANIFEST).stat()
    return str(folder.absolute()), status.st_ino, status.st_mtime_ns


def damage_of(folder: Path) -> str | None:
    """What is wrong with the artifact in ``folder``, by the checksums of its files; None where it is whole.

    It is looked at once by each process. Of artifacts from before there were checksums, only the manifest is read.
    """
    try:
        version = _version_of(folder)
        if version in _whole:
            return None
        files = read_manifest(folder).get("files", {})
        for name, expected in files.items():
            path = folder / name
            size = path.stat().st_size
            if size != expected["bytes"]:
                return f"{path} is damaged: it has {size} bytes, and had {expected['bytes']} when it was written"
            if sha256_of(path) != expected["sha256"]:
                return f"{path} is damaged: its checksum is not that of the file that was written"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / MANIFEST} is damaged: {error}"
    _whole.add(version)
    return None


def mark_whole(folder: Path) -> None:
    """This process has written the artifact in ``folder``, and need not read it to know that it is whole."""
    _whole.add(_version_of(folder))
