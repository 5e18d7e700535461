"""What the tables of ``results.py`` have of one record: its rows, each a dictionary, read from the record's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kto_bench.results import Record


def wall_seconds(timing: dict[str, Any]) -> float:
    """Seconds of the stages that a run built itself; NaN where none are known."""
    stages = timing.get("stages", {}).values()
    return float(sum(stage["wall_seconds"] for stage in stages if not stage.get("cached"))) if stages else float("nan")


def completions(record: Record) -> list[dict[str, Any]]:
    """As in completions.jsonl, with the prompt as one text."""
    rows = record.lines("completions.jsonl")
    return [{**row, "prompt": "\n".join(turn["content"] for turn in row["prompt"])} for row in rows]


def training(record: Record) -> list[dict[str, Any]]:
    """As in metrics.jsonl; the value of the loss is in ``training_loss``."""
    return [
        {"training_loss" if key == "loss" else key: value for key, value in row.items()}
        for row in record.lines("metrics.jsonl")
    ]


def warnings(record: Record) -> list[dict[str, Any]]:
    """One per sentence of warning."""
    return [{"warning": str(warning)} for warning in record.json("data.json").get("warnings") or []]


def budgets(record: Record) -> list[dict[str, Any]]:
    """What the alignment used, and what was given to all runs alike; none where nothing was trained."""
    used = record.json("data.json").get("used")
    given = record.json("config.json").get("budget") or {}
    matched = [f"{unit}: {amount}" for unit, amount in given.items() if amount is not None]
    return [{**used, "matched": ", ".join(matched)}] if used else []


def outcomes(record: Record) -> list[dict[str, Any]]:
    """One per completion, with its judgement."""
    judgements = {row["prompt_id"]: row for row in record.lines("judgements.jsonl")}
    rows = []
    for row in record.lines("completions.jsonl"):
        judgement = judgements.get(row["prompt_id"], {})
        preference = judgement.get("preference")
        rows.append(
            {
                "prompt_id": row["prompt_id"],
                "tokens": row["tokens"],
                "ended": row["ended"],
                **({"reference_tokens": row["reference_tokens"]} if "reference_tokens" in row else {}),
                "preference": float("nan") if preference is None else float(preference),
                **(judgement.get("scores") or {}),
            }
        )
    return rows


def implied_rewards(record: Record) -> list[dict[str, Any]]:
    """One per labelled example and side of it."""
    about = record.json("scores.json").get("implied_reward") or {}
    point = about.get("reference_point")
    rows = []
    for row in record.lines("implied_rewards.jsonl"):
        for side in (name for name in ("chosen", "rejected", "completion") if name in row):
            found = dict(row[side])
            rows.append(
                {
                    "example": row["id"],
                    "split": row["split"],
                    "side": side,
                    "desirable": bool(row["label"]) if side == "completion" else side == "chosen",
                    "mislabelled": row["mislabelled"],
                    "declared": bool(about.get("declared")),
                    "reference_point": float("nan") if point is None else point,
                    **(found.pop("scores", None) or {}),
                    **found,
                }
            )
    return rows


def settings(record: Record, keys: list[str]) -> list[dict[str, Any]]:
    """The size of the model, and what the configuration says for dotted ``keys``."""
    config = record.json("config.json")
    parameters = (record.json("data.json").get("parameters") or {}).get("total", float("nan"))
    return [{"parameters": float(parameters), **{key: _at(config, key) for key in keys}}]


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return float("nan") if config is None else config


def choices(record: Record) -> list[dict[str, Any]]:
    """One per multiple-choice document of which the log-probabilities of the choices are known."""
    scores = record.json("scores.json").get("benchmarks") or {}
    rows = []
    for row in record.lines("choices.jsonl"):
        normalised = str((scores.get(row["task"]) or {}).get("metric")).partition(",")[0] == "acc_norm"
        logits = np.array(row["log_probs"])
        if normalised:
            logits = logits / np.array(row["characters"])
        p = np.exp(logits - logits.max())
        p /= p.sum()
        right = np.eye(len(p))[row["right"]]
        rows.append(
            {
                "task": row["task"],
                "doc_id": row["doc_id"],
                "normalised": normalised,
                "probability": float(p[row["right"]]),
                "confidence": float(p.max()),
                "correct": float(p.argmax() == row["right"]),
                "brier": float(((p - right) ** 2).sum()),
            }
        )
    return rows


def question_sets(record: Record) -> list[dict[str, Any]]:
    """One per statistic of a published set of questions."""
    recorded = record.json("scores.json").get("statistics") or {}
    about = {"set": recorded.get("set"), "scale": recorded.get("scale", 1)}
    about |= {"published": recorded.get("published") or [], "notes": recorded.get("notes") or []}
    return [{**about, "name": name, **value} for name, value in (recorded.get("values") or {}).items()]


def over_training(record: Record) -> list[dict[str, Any]]:
    """One per step and prompt."""
    rows = record.lines("over_training.jsonl")
    scores = [row.pop("scores", None) or {} for row in rows]
    return [{**row, **more} for row, more in zip(rows, scores, strict=True)]


def backend(record: Record) -> list[dict[str, Any]]:
    """What generated the completions; none where nothing did."""
    if not record.json("scores.json").get("guards"):
        return []
    generation = (record.json("config.json").get("evaluation") or {}).get("generation") or {}
    return [{"backend": generation.get("backend", "transformers")}]


def guards(record: Record) -> list[dict[str, Any]]:
    """The score guards, and what is known of the judge."""
    scores = record.json("scores.json")
    head_to_head = scores.get("head_to_head") or {}
    if not scores.get("guards"):
        return []
    judged = {"judge": head_to_head.get("judge"), "judged": head_to_head.get("n")}
    position, noise = head_to_head.get("position") or {}, head_to_head.get("noise") or {}
    account = head_to_head.get("account") or {}
    known = {
        "first_preferred": position.get("first_preferred"),
        "consistent": position.get("consistent"),
        "noise": noise.get("standard_error"),
        "dollars": account.get("dollars"),
    }
    return [{**judged, **{name: value for name, value in known.items() if value is not None}, **scores["guards"]}]
