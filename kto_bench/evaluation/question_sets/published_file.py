"""Published files (questions, reference outputs, judges' prompts): a local copy, or the one on the Hugging Face hub."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kto_bench.checksums import sha256_of
from kto_bench.component import ConfigError

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class PublishedFile:
    """Where a file is published. ``field`` is the configuration field that names a local copy instead."""

    repository: str
    filename: str
    field: str
    kind: Literal["dataset", "space"] = "dataset"
    also: str = ""
    """Another place that has the file, for the error message."""

    def locate(self, path: Path | None) -> Path:
        """``path`` if there is one, else the hub's file, downloaded once. Raises ConfigError where there is neither."""
        if path is not None:
            if not path.is_file():
                raise ConfigError(f"{self.field}: {str(path)!r} is not a file; give the path of {self.filename}")
            return path
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.repository, self.filename, repo_type=self.kind))
        except (OSError, ValueError) as error:  # offline, refused, or no such file
            reason = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"{self.field}: {self.filename} of the hub's {self.kind} {self.repository} cannot be fetched "
                f"({type(error).__name__}: {reason}); download it{self.also and f' there or from {self.also}'} and "
                f"give {self.field}=PATH"
            ) from error

    def digest(self, path: Path | None) -> str:
        """SHA-256 of the file's content, for fingerprints. Raises as ``locate`` does."""
        return sha256_of(self.locate(path))

    def records(self, path: Path | None) -> list[dict[str, Any]]:
        """The objects in a file of JSON (one list) or JSON lines, plain or gzip. Raises ConfigError for others."""
        file = self.locate(path)
        content = file.read_bytes()
        try:
            text = (gzip.decompress(content) if content.startswith(_GZIP) else content).decode("utf-8")
            rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
        except (ValueError, EOFError, OSError) as error:
            raise ConfigError(f"{self.field}: {file} is neither a JSON list nor JSON lines ({error})") from error
        if not all(isinstance(row, dict) for row in rows):
            raise ConfigError(
                f"{self.field}: {file} holds values that are no JSON objects; give a copy of {self.filename}"
            )
        return list(rows)


def _lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]
