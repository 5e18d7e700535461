"""Every loss of conf/loss, so that tests take a new one without an edit."""

from __future__ import annotations

from typing import Any

import yaml
from places import ROOT

from kto_bench.component import build
from kto_bench.losses import Loss

NODES: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text())["loss"] for path in sorted((ROOT / "conf" / "loss").glob("*.yaml"))
}
TRAINED = [name for name, node in NODES.items() if node["_target_"] is not None]


def loss_node(name: str) -> dict[str, Any]:
    """The configuration of a loss without its name."""
    return {key: value for key, value in NODES[name].items() if key != "name"}


def loss_of(name: str, **changes: Any) -> Loss:
    """The loss ``name`` at its defaults but for ``changes``."""
    return build({**loss_node(name), **changes}, Loss, "loss")
