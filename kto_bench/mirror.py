"""Where the mirror of a run is in W&B, and what it holds: shared by who writes it and who builds a report on it.

Imports neither torch nor, until it is asked about the account, wandb.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kto_bench.store import fingerprint_of

SAMPLES_TABLE = "completions"
"""Key of the W&B table with sample completions."""


def wandb_id(sweep: str, fingerprint: str) -> str:
    """The id of a run in W&B: from the configuration, so a relaunch continues the same W&B run."""
    return fingerprint_of([sweep, fingerprint])[:16]


def offline_folders(folder: Path, id_: str) -> list[Path]:
    """What W&B wrote offline about the run, oldest first; several where it was relaunched. ``wandb sync`` sends it."""
    return sorted((folder / "wandb").glob(f"offline-run-*-{id_}"))


def label_keys(labels: Mapping[str, Any]) -> dict[str, Any]:
    """The labels as keys of the W&B configuration (``label_loss`` ...).

    Each is a plain value at the top, because W&B filters and groups by these, while ``loss`` and ``start`` are objects.
    """
    return {f"label_{name}": value for name, value in labels.items()}


def step_keys(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is logged of one optimiser step, under the names that it has in W&B."""
    return {f"train/{name}": value for name, value in metrics.items()}


def summary_keys(scores: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested scores as one level, with "/" between the names: what W&B has as the summary of a run."""
    flat: dict[str, Any] = {}
    for key, value in scores.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= summary_keys(value, f"{name}/")
        elif isinstance(value, (int, float, str, bool)):
            flat[name] = value
    return flat


def server() -> str:
    """The address of the W&B server that is spoken to."""
    from wandb.sdk import wandb_setup

    return os.environ.get("WANDB_BASE_URL") or str(wandb_setup.singleton().settings.base_url)


def is_signed_in() -> bool:
    """Whether W&B has credentials for its server: WANDB_API_KEY, an identity token or a ``wandb login``. Never asks.

    Raises what wandb raises where there are credentials, but of no valid form.
    """
    from wandb.sdk.lib import wbauth

    # wandb.login(prompt=False) would do, but it says no where WANDB_MODE=offline, and keeps the answer.
    found = wbauth.authenticate_session(host=server(), source="kto_bench", prompt=False, update_session=False)
    return found is not None
