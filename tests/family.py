"""Every loss of conf/loss, so that tests take a new one without an edit."""

from __future__ import annotations

from typing import Any

import torch
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


def _kind(loss: Loss) -> tuple[object, ...]:
    """What a loss asks of the engine: two losses of one kind go through the same code."""
    means = (loss.feedback, loss.needs_reference, loss.needs_kl, loss.needs_values)
    weights = tuple(loss.weights(torch.tensor([2, 3])).tolist())
    return *means, loss.tracked, loss.sync_every is not None, loss.control_tokens is not None, weights


def _one_of_each_kind() -> list[str]:
    main = ["sft", "dpo", "kto", "simpo"]
    first: dict[tuple[object, ...], str] = {}
    for name in [*main, *TRAINED]:
        first.setdefault(_kind(loss_of(name)), name)
    return list(first.values())


ONE_OF_EACH_KIND = _one_of_each_kind()
"""Losses that stand for all others in tests of the engine that take long; a loss of a new kind is among them."""
