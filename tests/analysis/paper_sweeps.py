"""Small records of the sweeps that papers' figures are drawn from, with planted win rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic import write_run

PROMPTS = 24
FROM_OWN = {
    "win_rate_by_scale": "kto_scale-own",
    "sft_skip_by_scale": "kto_scale-own",
    "length_by_scale": "kto_scale-own",
    "imbalance": "kto_imbalance-own",
    "one_completion": "one_completion-own",
    "ultrafeedback": "ultrafeedback-own",
    "simpo_scores": "simpo_table-own",
    "weightings": "weightings-own",
}
"""Which of these sweeps a figure of a paper is drawn from."""
OF_STUDIES = {name: "kto_paper" for name in FROM_OWN if name != "weightings"} | {"simpo_scores": "simpo_paper"}
"""The published study that has the same figure."""
SIZES = {"sandbox_tiny": 50_000, "sandbox_small": 150_000, "sandbox_medium": 600_000}


def write(
    sweep: Path,
    loss: str,
    start: str,
    seed: int,
    hash_: str,
    win: float,
    model: str = "sandbox_small",
    settings: dict[str, Any] | None = None,
    feedback: dict[str, Any] | None = None,
    pretrain: dict[str, Any] | None = None,
) -> None:
    """A run; ``settings``, ``feedback`` and ``pretrain`` are those parts of its configuration."""
    config = {
        "loss": {"_target_": f"kto_bench.losses.{loss}.Loss", **(settings or {})},
        "feedback": {
            "keep_desirable": 1.0, "keep_undesirable": 1.0, "one_completion_per_prompt": False, **(feedback or {})
        },
        "model": {"name": model, "pretrain": pretrain},
        "evaluation": {"generation": {"temperature": 0.7}},
    }  # fmt: skip
    if loss == "none":
        config["loss"] = {"_target_": None}
    labels = {"model": model}
    write_run(
        sweep, loss, start, seed, win=win, prompts=PROMPTS, hash_=hash_, steps=2, labels=labels, config=config,
        parameters=SIZES.get(model, 7_000_000_000),
    )  # fmt: skip


def scale(results: Path, name: str = "kto_scale-own", models: tuple[str, ...] = tuple(SIZES), seeds: int = 2) -> None:
    """Models by size, with and without SFT; KTO needs no SFT, DPO does."""
    wins = {("none", "base"): 0.1, ("none", "sft"): 0.4, ("dpo", "base"): 0.2, ("dpo", "sft"): 0.5}
    wins |= {("kto", "base"): 0.55, ("kto", "sft"): 0.55}
    for size, model in enumerate(models):
        for (loss, start), win in wins.items():
            for seed in range(seeds):
                write(results / name, loss, start, seed, f"m{size}", win + 0.05 * size, model=model)


def sft_skip(results: Path, name: str = "sft_skip-own") -> None:
    """Two sizes and two amounts of pretraining."""
    for size, model in enumerate(list(SIZES)[:2]):
        for tokens in (500_000, 4_000_000):
            for loss in ("none", "dpo", "kto"):
                for start in ("base", "sft"):
                    part = {"tokens": tokens}
                    write(results / name, loss, start, 0, f"m{size}t{tokens}", 0.4, model=model, pretrain=part)


def imbalance(results: Path, name: str = "kto_imbalance-own") -> None:
    """A part of either class, weights that make up for it or not, and DPO on everything."""
    for share in (0.01, 0.1, 1.0):
        for weighting in ("corrected", "equal"):
            for cls in ("desirable", "undesirable"):
                if share == 1.0 and (weighting, cls) == ("equal", "undesirable"):
                    continue  # the same run as of the other class
                weight = 1.0 if weighting == "equal" else (4 / 3 if cls == "desirable" else 0.75) / share
                other = "undesirable" if cls == "desirable" else "desirable"
                write(
                    results / name, "kto", "base", 0, f"{cls[0]}{share:g}{weighting[0]}".replace(".", ""),
                    0.3 + 0.2 * share + (0.1 if weighting == "corrected" else 0),
                    settings={f"{cls}_weight": weight, f"{other}_weight": 1.0}, feedback={f"keep_{cls}": share},
                )  # fmt: skip
    write(results / name, "dpo", "base", 0, "dpo", 0.3)


def one_completion(results: Path, name: str = "one_completion-own", model: str = "sandbox_small") -> None:
    """The four methods, two seeds."""
    for seed in (0, 1):
        for loss, win in (("none", 0.2), ("dpo", 0.4), ("kto", 0.5)):
            write(results / name, loss, "base", seed, "all", win, model=model)
        part = {"one_completion_per_prompt": True}
        write(results / name, "kto", "base", seed, "one", 0.45, model=model, feedback=part)


def ablations(results: Path, name: str = "ultrafeedback-own", model: str = "sandbox_small") -> None:
    """KTO and its ablations."""
    for loss in ("none", "dpo", "orpo", "kto", "kto_no_reference_point", "kto_concave", "kto_no_reference"):
        write(results / name, loss, "sft", 0, "all", 0.4, model=model)
    write(results / name, "kto", "sft", 0, "one", 0.45, model=model, feedback={"one_completion_per_prompt": True})


def weightings(results: Path, name: str = "weightings-own") -> None:
    """Three values of each class weight; heavier desirable completions win more."""
    for desirable in (0.5, 1.0, 2.0):
        for undesirable in (0.5, 1.0, 2.0):
            weights = {"desirable_weight": desirable, "undesirable_weight": undesirable}
            write(
                results / name,
                "kto",
                "sft",
                0,
                f"{desirable:g}{undesirable:g}",
                0.3 + 0.15 * desirable,
                settings=weights,
            )


def grids(results: Path, name: str = "simpo_table-own") -> None:
    """Losses with grids of settings."""
    for loss, betas in (("dpo", (0.01, 0.1)), ("kto", (0.01, 0.1)), ("simpo", (2.0, 2.5, 10.0)), ("none", (0.0,))):
        for index, beta in enumerate(betas):
            write(results / name, loss, "sft", 0, f"b{index}", 0.3 + 0.1 * index, settings={"beta": beta})


def write_all(results: Path) -> None:
    """All sweeps of FROM_OWN, and one about skipping SFT."""
    for make in (scale, sft_skip, imbalance, one_completion, ablations, weightings, grids):
        make(results)
