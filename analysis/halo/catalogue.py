"""Which losses are looked at: every YAML of ``conf/loss``, or those that were asked for, with fields changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from analysis import style
from kto_bench.component import ConfigError, build
from kto_bench.losses import Loss


@dataclass(frozen=True)
class Subject:
    """One loss and what it is called: "kto", or "kto beta=0.5" where fields differ from its YAML, ``file``."""

    name: str
    loss: Loss
    file: Path

    @property
    def title(self) -> str:
        """How figures and tables show it."""
        return style.loss_name(self.name)


ALSO = {"ppo": "ppo.kl_weight=0"}
"""What a whole report shows beside a loss: PPO-Clip by itself is what the paper's theorem is about, while the offline
setting of its experiments adds a KL penalty."""


def catalogue(folders: Sequence[Path]) -> list[Subject]:
    """All losses of ``folders``, and ALSO."""
    found = subjects(folders)
    wanted = [ALSO[subject.name] for subject in found if subject.name in ALSO]
    also = subjects(folders, wanted) if wanted else []
    return sorted([*found, *also], key=lambda subject: style.loss_order(subject.name))


def subjects(folders: Sequence[Path], wanted: Iterable[str] = ()) -> list[Subject]:
    """The losses ``wanted``, each ``NAME`` or ``NAME.FIELD=VALUE[,FIELD=VALUE...]``; all of them if none is named.

    ``folders`` hold one YAML per loss; where two have the same name, the later folder's counts. Raises ConfigError for
    a name that does not exist, with the list, and for a loss that cannot be built, with its file.
    """
    files = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    nodes = {name: node for name, path in files.items() if (node := _node(path)) is not None}
    chosen = list(wanted) or sorted(nodes, key=style.loss_order)
    return [_subject(text, nodes, files) for text in dict.fromkeys(chosen)]


def _subject(text: str, nodes: dict[str, dict[str, Any]], files: dict[str, Path]) -> Subject:
    name, _, changes = text.partition(".")
    if name not in nodes:
        near = difflib.get_close_matches(name, nodes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"--loss {text}: {name!r} is no loss; losses: {', '.join(sorted(nodes))}{hint}")
    node = dict(nodes[name])
    for change in filter(None, changes.split(",")):
        field, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"--loss {text}: {change!r} is no FIELD=VALUE, as in --loss kto.beta=0.5")
        node[field] = yaml.safe_load(value)
    try:
        loss = build({key: value for key, value in node.items() if key != "name"}, Loss, "loss")
    except ConfigError as error:
        raise ConfigError(f"{files[name]}: {error}") from error
    return Subject(f"{name} {changes.replace(',', ' ')}".strip(), loss, files[name])


def _node(path: Path) -> dict[str, Any] | None:
    """The loss that a YAML describes; None where it says that nothing is trained."""
    try:
        whole = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
    node = whole.get("loss") if isinstance(whole, dict) else None
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{path}: expected a mapping `loss` with `_target_: module.Class`, got {node!r}")
    return None if node["_target_"] is None else {str(key): value for key, value in node.items()}
