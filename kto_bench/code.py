"""What a class computes, as a digest that changes with its code and not with its comments."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def digest_of(cls: type, counts: Callable[[type], bool]) -> str:
    """SHA-256 over the files of ``cls`` and of those classes that it inherits from which ``counts``.

    Comments, docstrings, formatting and the ``description`` of fields do not count, so explaining better is not taken
    for other work, and changing an equation never for the same.
    """
    modules: dict[str, ModuleType | None] = {
        parent.__module__: inspect.getmodule(parent) for parent in cls.__mro__ if counts(parent)
    }
    digest = hashlib.sha256()
    for name, module in modules.items():
        file = inspect.getsourcefile(module) if module is not None else None
        digest.update(name.encode() + b"\0")
        for part in _parts(ast.parse(Path(file).read_text(encoding="utf-8"))) if file else ():
            digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _parts(node: Any) -> Iterator[str]:
    """The tree as text. Fields that are empty are left out, since later versions of Python have more of them."""
    if isinstance(node, list):
        for item in node:
            if not _is_text(item):
                yield from _parts(item)
    elif isinstance(node, ast.AST):
        if isinstance(node, ast.keyword) and node.arg == "description":
            return
        yield type(node).__name__
        for field, value in ast.iter_fields(node):
            if value not in (None, [], "") and field not in ("ctx", "kind", "type_comment"):
                yield field
                yield from _parts(value)
        yield "end"
    else:
        yield repr(node)


def _is_text(statement: Any) -> bool:
    """A docstring, or a string beneath a field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
