"""What every configurable part of the suite has in common.

A component is a small typed class that a YAML file under ``conf/`` names by ``_target_`` and fills in. Adding one is a
Python file and a YAML file; nothing else in the suite knows the list of them.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kto_bench.code import digest_of

USAGE_ERROR = 2
"""Exit status of the commands for a choice that is refused."""


class ConfigError(ValueError):
    """A choice that cannot be run. The message names the field, the value, what is allowed and what to do."""


class Component(BaseModel):
    """Base of feedback sources, model sources, prompt sources, judges and corpora. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def identity(self) -> dict[str, Any]:
        """Everything that changes what this component produces, as plain JSON values; it goes into fingerprints.

        A component's ``name`` is a label and changes nothing. Components that read files override this to name the
        *content* of those files rather than their path.
        """
        return identity_of(self)


def identity_of(part: BaseModel) -> dict[str, Any]:
    """The class and the fields of a component, for fingerprints.

    The suite's own components have hand-bumped versions; of a class that a user wrote, the code is hashed, so that
    editing it is never taken for the same work.
    """
    cls = type(part)
    identity = {"_target_": f"{cls.__module__}.{cls.__qualname__}", **part.model_dump(mode="json", exclude={"name"})}
    if _is_of_a_user(cls):
        identity["source"] = digest_of(cls, _is_of_a_user)
    return identity


def _is_of_a_user(cls: type) -> bool:
    suite, library = __name__.partition(".")[0], BaseModel.__module__.partition(".")[0]
    return issubclass(cls, BaseModel) and cls.__module__.partition(".")[0] not in (suite, library)


Built = TypeVar("Built", bound=BaseModel)


def build(node: Any, base: type[Built], field: str) -> Built:
    """Build the component that the configuration ``node`` at ``field`` describes.

    Raises ConfigError when ``_target_`` is missing, cannot be imported or is no ``base``, or when a field is unknown,
    missing or of a wrong type.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError(
            f"{field}: expected a mapping with `_target_: module.Class` naming a {base.__name__}, got {node!r}"
        )
    target = node["_target_"]
    cls = _locate(target, field)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{field}._target_: {target!r} is not a {base.__module__}.{base.__name__}")
    return validate(cls, {key: value for key, value in node.items() if key != "_target_"}, field)


def _locate(target: str, field: str) -> Any:
    module_name, _, attribute = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{field}._target_: cannot import {target!r} ({error})") from error


def validate(cls: type[Built], values: Mapping[str, Any], field: str) -> Built:
    """``cls(**values)``, with pydantic's complaints turned into one ConfigError that a user can act on."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(cls, field, detail) for detail in error.errors())) from error


def _explain(cls: type[BaseModel], field: str, detail: Any) -> str:
    nested = detail.get("ctx", {}).get("error")
    if isinstance(nested, ConfigError):
        return str(nested)  # a component inside a component has explained itself
    where = ".".join([field, *map(str, detail["loc"])]).strip(".")
    if detail["type"] == "extra_forbidden":
        allowed = _fields_at(cls, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{where}: unknown field (value {detail['input']!r}); allowed: {', '.join(sorted(allowed))}{hint}"
    if detail["type"] == "missing":
        return f"{where}: required, but not given"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if not detail["loc"]:  # a check over several fields names them and their values itself
        return f"{where}: {message}"
    return f"{where}: {detail['input']!r} is not allowed: {message}"


def _fields_at(cls: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        inner = cls.model_fields.get(part) if hasattr(cls, "model_fields") else None
        annotation = inner.annotation if inner is not None else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        cls = next((option for option in options if hasattr(option, "model_fields")), None)
        if cls is None:
            return []
    return list(cls.model_fields)
