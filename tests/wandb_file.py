"""Reads the file of an offline W&B run: a LevelDB log of protocol-buffer records behind a header of 7 bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER, BLOCK = 7, 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """The ``wandb_internal_pb2.Record`` messages of a .wandb file, in order."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B", "not a W&B file"
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += HEADER
        parts += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def summarise(path: Path) -> dict[str, Any]:
    """Group, configuration keys, number of logged steps, summary keys and exit code of an offline run."""
    found: dict[str, Any] = {"steps": 0, "summary": set(), "config": set()}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["group"] = record.run.run_group
            found["config"] |= {_key(item) for item in record.run.config.update}
        elif kind == "history":
            found["steps"] += any(_key(item) == "train/loss" for item in record.history.item)
        elif kind == "summary":
            found["summary"] |= {_key(item) for item in record.summary.update}
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)
