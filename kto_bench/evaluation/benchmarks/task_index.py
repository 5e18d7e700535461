"""Which tasks lm-eval has, found without reading all of its 14,000 task files (which takes 5 to 20 seconds)."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kto_bench.component import ConfigError

PACKAGE_PREFIX = "pkg:"

# A name alone on its line, after the key that gives it or as an item of a list: `task: arc_easy`, `"tag": x`, `- x`.
_KEY = rb"(?:[\"']?(task|group|tag)[\"']?[ \t]*:[ \t]*)?"
_NAMED = re.compile(rb"^([ \t-]*)" + _KEY + rb"[\"']?([A-Za-z][\w.:-]*)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)


def manager_for(names: Iterable[str], include_path: str | None) -> Any:
    """A TaskManager that knows ``names`` and all that they contain; not only these, and never lm-eval's whole index.

    Task files of ``include_path`` go before lm-eval's own. Raises ConfigError for a name that is no task, group or tag,
    with near matches.
    """
    from lm_eval.tasks import TaskManager

    if include_path is None:
        return _of_lm_eval(tuple(sorted(set(names))))
    folder = folder_of(include_path)  # small, and read again each time, since its files may be at work
    manager = TaskManager(include_path=folder, include_defaults=False)
    others = {name for name in names if not _is_whole(manager, name)}
    if not others:
        return manager
    folders = _folders_of(others)
    manager = TaskManager(include_path=[*folders, folder], include_defaults=False)
    return manager if _has_all(manager, others) else _whole_index(names, folder)


def leaves_of(manager: Any, name: str) -> dict[str, dict[str, Any]]:
    """The tasks that a task, group or tag stands for: name -> configuration as it is written (functions as text)."""
    return _leaves(manager.task_index, name, {}, "")


def _leaves(index: Mapping[str, Any], name: str, changes: Mapping[str, Any], parent: str) -> dict[str, dict[str, Any]]:
    entry = index.get(name)
    if entry is None:  # a task that its group defines in place
        return {f"{parent}::{name}": {**changes, "inline": True}}
    written = dict(entry.cfg or {})
    if entry.kind.name == "TAG":
        parts: list[Any] = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        parts = written.get("task", [])
    else:
        task = str(changes.get("task", name))
        return {task: {**written, **changes, "task": task, "yaml_path": str(entry.yaml_path)}}
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        own = dict(part) if isinstance(part, Mapping) else {}
        child = str(own.pop("group", None) or own.get("task") or part)
        if isinstance(own.get("task"), list):  # a group that is defined in place
            for member in own["task"]:
                member_name = member["task"] if isinstance(member, Mapping) else member
                found |= _leaves(index, member_name, member if isinstance(member, Mapping) else {}, child)
            continue
        found |= _leaves(index, child, {**changes, **own}, name)
    return found


@functools.cache
def _of_lm_eval(names: tuple[str, ...]) -> Any:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=_folders_of(names), include_defaults=False)
    return manager if _has_all(manager, names) else _whole_index(names, None)


def _has_all(manager: Any, names: Iterable[str]) -> bool:
    return all(_is_whole(manager, name) for name in names)


def _is_whole(manager: Any, name: str) -> bool:
    """Whether ``name`` is there with all that it contains."""
    if name not in manager.task_index:
        return False
    return not any(task.get("inline") and "dataset_path" not in task for task in leaves_of(manager, name).values())


def _whole_index(names: Iterable[str], folder: Path | None) -> Any:
    """All tasks of lm-eval. Raises ConfigError where even they lack one of ``names``."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=folder, include_defaults=False).task_index if folder else {}
    known = {*own, *_mentions()[0]}
    unknown = [name for name in names if name not in own and not _is_written(name)]
    manager = None
    if not unknown:
        manager = _everything(str(folder) if folder else None)
        known = manager.task_index.keys()
        unknown = [name for name in names if name not in known]
    if unknown:
        hints = [(name, difflib.get_close_matches(name, known, n=4)) for name in unknown]
        told = "; ".join(f"{name!r} (near: {', '.join(near) or 'none'})" for name, near in hints)
        raise ConfigError(f"evaluation.benchmarks.tasks: no such task, group or tag of lm-eval: {told}")
    return manager


@functools.cache
def _everything(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _folders_of(names: Iterable[str]) -> list[Path]:
    """The folders of lm-eval's task files that define ``names`` and, for groups and tags, what these name in turn."""
    defined, mentioned, members = _mentions()
    folders: set[str] = set()
    seen: set[str] = set()
    wanted = list(names)
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        files = defined.get(name) or mentioned.get(name, set())  # a tag is nowhere defined
        folders |= {str(Path(file).parent) for file in files}
        for file in defined.get(name, ()):
            wanted += members.get(file, ())
    # Of two tasks with one name lm-eval takes the first file by path; of several folders the last one given counts.
    return [Path(folder) for folder in sorted(folders, reverse=True)]


@functools.cache
def _mentions() -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    """(name -> files that define it, name -> files that say it, file of a group -> names that it lists)."""
    defined: dict[str, set[str]] = {}
    mentioned: dict[str, set[str]] = {}
    members: dict[str, set[str]] = {}
    for path in _files():
        said = [(dent, key, name.decode()) for dent, key, name in _NAMED.findall(Path(path).read_bytes())]
        for dent, key, name in said:
            mentioned.setdefault(name, set()).add(path)
            if key in (b"task", b"group") and not dent:
                defined.setdefault(name, set()).add(path)
        if any(key == b"group" and not dent for dent, key, _ in said):
            members[path] = {name for dent, _, name in said if dent}
    return defined, mentioned, members


def _files() -> Iterator[str]:
    """lm-eval's task files, with the templates such as _default_template_yaml, which may hold a tag."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    for parent, _, files in os.walk(Path(spec.submodule_search_locations[0]) / "tasks"):
        yield from (f"{parent}/{file}" for file in files if file.endswith("yaml"))


def is_known(name: str) -> bool:
    """Whether lm-eval has a task, group or tag of this name."""
    return name in _mentions()[1]


def _is_written(name: str) -> bool:
    """Whether a name stands anywhere in lm-eval's task files; if not, no reading of them will find it."""
    return any(name.encode() in Path(path).read_bytes() for path in _files())


def folder_of(include_path: str) -> Path:
    """The folder of task files that ``include_path`` means: a folder, or ``pkg:package.module``. Raises ValueError."""
    if not include_path.startswith(PACKAGE_PREFIX):
        folder = Path(include_path)
        if not folder.is_dir():
            raise ValueError("there is no such folder; give a folder of task files or pkg:package.module")
        return folder
    name = include_path.removeprefix(PACKAGE_PREFIX)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"there is no importable package {name!r}; give pkg:package.module or a folder")
    return Path(next(iter(spec.submodule_search_locations)))


def hash_of_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of the files of a folder of tasks."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
