"""NLTK's sentence splitter, which IFEval counts sentences with, and the seed of the language detector beside it."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from kto_bench.component import ConfigError

RESOURCE = "tokenizers/punkt_tab"
FOLDER = "nltk_data"
"""Below ``evaluation.data_root``, laid out as NLTK lays out its own."""
_PARAMETERS = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")


def splitter(root: Path | None, untrained: bool) -> str:
    """Which splitter will be used: "punkt_tab" where it is installed, else "untrained" if that is allowed.

    Raises ConfigError where it is not: IFEval would ask the network for it, and then fail in the middle.
    """
    if _installed(root):
        return "punkt_tab"
    if untrained:
        return "untrained"
    raise ConfigError(
        "evaluation.benchmarks.untrained_sentences: IFEval counts sentences with NLTK's punkt_tab, which is not "
        "installed; fetch it with `python -m nltk.downloader punkt_tab`, or put it at "
        f"{FOLDER}/{RESOURCE} below evaluation.data_root, or choose true to split at every full stop, question and "
        "exclamation mark instead, which changes the score a little"
    )


def prepare(root: Path | None, untrained: bool) -> None:
    """Let NLTK find the splitter, and make the language detector, which draws at random, always draw the same."""
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0
    if splitter(root, untrained) == "untrained":
        folder = _without_parameters().name
        if folder not in nltk.data.path:
            nltk.data.path.append(folder)


def _installed(root: Path | None) -> bool:
    import nltk

    if root is not None and (root / FOLDER).is_dir() and str(root / FOLDER) not in nltk.data.path:
        nltk.data.path.insert(0, str(root / FOLDER))
    own = _without_parameters().name if _without_parameters.cache_info().currsize else None
    try:
        nltk.data.find(RESOURCE, [path for path in nltk.data.path if path != own])
    except LookupError:
        return False
    return True


@functools.cache
def _without_parameters() -> tempfile.TemporaryDirectory[str]:
    """A folder that NLTK takes for punkt_tab, with no abbreviation in it; removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="kto_bench-nltk-")
    english = Path(folder.name) / RESOURCE / "english"
    english.mkdir(parents=True)
    for name in _PARAMETERS:
        (english / name).touch()
    return folder
