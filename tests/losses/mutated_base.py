"""Proof that a check notices an error in a module that a loss is built on."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def assert_noticed_below(
    base: ModuleType, cls: type, old: str, new: str, check: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``check`` fails on a copy of the class that is built on a copy of ``base`` in which ``old`` is ``new``."""
    source = inspect.getsource(base)
    assert old in source, "the base was rewritten: state this mutation in its new words"
    own = inspect.getsource(sys.modules[cls.__module__])
    wrong, copy = ModuleType(base.__name__), ModuleType("mutated_loss")
    for module, text in ((wrong, source.replace(old, new)), (copy, own)):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(text, module.__name__, "exec"), module.__dict__)
    with pytest.raises(AssertionError):
        check(getattr(copy, cls.__name__))
