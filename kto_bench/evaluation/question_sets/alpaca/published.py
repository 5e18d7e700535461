"""The published leaderboards of AlpacaEval 1 and 2, as the installed alpaca_eval brings them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import pandas as pd

Version = Literal[1, 2]
ANNOTATORS: dict[Version, str] = {1: "alpaca_eval_gpt4", 2: "weighted_alpaca_eval_gpt4_turbo"}
"""alpaca_eval's names of the annotators that the leaderboards are made with."""
BASELINES: dict[Version, str] = {1: "text_davinci_003", 2: "gpt4_1106_preview"}
SHOWN: dict[Version, tuple[str, ...]] = {
    1: (
        "text_davinci_003",
        "alpaca-7b",
        "alpaca-farm-ppo-human",
        "vicuna-7b-v1.3",
        "phi-2-sft",
        "phi-2-dpo",
        "llama-2-7b-chat-hf",
        "tulu-2-dpo-7b",
        "zephyr-7b-beta",
    ),
    2: (
        "alpaca-7b",
        "phi-2-sft",
        "phi-2-dpo",
        "tulu-2-dpo-7b",
        "zephyr-7b-beta",
        "Mistral-7B-Instruct-v0.2",
        "Snorkel-Mistral-PairRM-DPO",
        "Meta-Llama-3-8B-Instruct",
        "Contextual-KTO-Mistral-PairRM",
        "Llama-3-Instruct-8B-SimPO",
        "gpt4_1106_preview",
    ),
}
"""Rows that tables show: the baseline, the models of the alignment papers, and those they start from."""


def package_folder() -> Path:
    """Where alpaca_eval is installed; nothing of it is imported."""
    found = importlib.util.find_spec("alpaca_eval")
    assert found is not None, "alpaca-eval is declared as a dependency"
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0])


def leaderboard(version: Version, path: Path | None = None) -> pd.DataFrame:
    """One row per model: win_rate, standard_error, length_controlled_winrate, ... in percent, as published.

    ``path`` is another copy of the leaderboard's CSV.
    """
    folder = {1: "data_AlpacaEval", 2: "data_AlpacaEval_2"}[version]
    file = path or package_folder() / "leaderboards" / folder / f"{ANNOTATORS[version]}_leaderboard.csv"
    return pd.read_csv(file, index_col=0)


def shown(version: Version) -> list[dict[str, str | float | None]]:
    """The rows of ``SHOWN``, with shares for percentages; None where a leaderboard has no number."""
    table = leaderboard(version)
    columns = {"win rate": "win_rate", "length-controlled win rate": "length_controlled_winrate"}
    rows: list[dict[str, str | float | None]] = []
    for model in (model for model in SHOWN[version] if model in table.index):
        row: dict[str, str | float | None] = {"model": model}
        for name, column in columns.items():
            number = float(table.loc[model, column]) / 100  # type: ignore[arg-type]
            row[name] = None if number != number else number
        length = float(table.loc[model, "avg_length"])  # type: ignore[arg-type]
        rows.append({**row, "mean characters": None if length != length else length})
    return rows
