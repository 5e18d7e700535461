"""Writes records in the format of a sweep's, with planted truths, without training anything."""

from __future__ import annotations

import gzip
import json
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tiny import tiny_tokenizer

from kto_bench.feedback.report import data_report
from kto_bench.feedback.tokenising import tokenise_file
from kto_bench.feedback.tokens import Encoder
from kto_bench.feedback.types import Paired, write_rows

SCRIPT = '<script>alert("inert?")</script>'
WARNINGS = ("the rewards of both classes fell: lower <b>train.learning_rate</b>", "desirable_weight is 7 & too high")
TRACEBACK = (
    'Traceback (most recent call last):\n  File "loop.py", line 12, in step\nRuntimeError: loss is NaN at step 7 <b>'
)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(
    sweep: Path,
    loss: str,
    start: str,
    seed: int,
    win: float = 0.5,
    tokens: float = 12.0,
    prompts: int = 64,
    state: str = "done",
    hash_: str = "1a2b3c4d",
    steps: int = 40,
    capped: float = 0.01,
    warnings: tuple[str, ...] = (),
    **settings: Any,
) -> Path:
    """One run whose expected win rate is ``win``. Prompts differ in difficulty, the same for all runs."""
    run = f"{loss}-{start}-sandbox_small-s{seed}-{hash_}"
    folder = sweep / run
    folder.mkdir(parents=True)
    labels = {"loss": loss, "start": start, "model": "sandbox_small", "feedback": "sandbox", "seed": seed}
    labels |= settings.pop("labels", {})
    write_json(folder / "run.json", {"run": run, "sweep": sweep.name, "labels": labels, "stages": {"align": hash_}})
    beta, planned = settings.pop("beta", 0.1), settings.pop("planned", steps)
    more, parameters = settings.pop("config", {}), settings.pop("parameters", None)
    used = {"completions": 64 * steps, "updates": steps, "tokens": 900 * steps, "flops": 1e6 * steps}
    used = settings.pop("used", None if loss == "none" else used)
    write_json(
        folder / "config.json",
        {
            "loss": {"_target_": f"kto_bench.losses.{loss}.Loss", "beta": beta},
            "train": {"steps": planned},
            "seed": seed,
            **more,
        },
    )
    status = {"state": state, "run": run, "sweep": sweep.name, "fingerprint": hash_, "reason": None, "traceback": None}
    status |= {"started": "2026-08-01T10:00:00", "finished": "2026-08-01T10:02:00", "host": "node1", "pid": 7}
    rng = np.random.default_rng([seed, *f"{loss}{start}{hash_}".encode()])
    if loss != "none":
        write_lines(folder / "metrics.jsonl", [_metrics(loss, step, steps, rng) for step in range(1, steps + 1)])
    if state == "failed":
        write_json(
            folder / "status.json", status | {"reason": "RuntimeError: loss is NaN at step 7", "traceback": TRACEBACK}
        )
        return folder
    if state == "skipped":
        write_json(folder / "status.json", status | {"reason": "the feedback has no pairs, and DPO needs pairs"})
        return folder
    difficulty = np.random.default_rng(99).normal(0, 0.15, prompts)
    rates = np.clip(win + difficulty - difficulty.mean(), 0.02, 0.98)
    draws = rng.random(prompts)
    preferences = np.where(rng.random(prompts) < 0.1, 0.5, (draws < rates).astype(float))
    lengths = np.maximum(1, rng.poisson(tokens, prompts))
    ended = rng.random(prompts) >= capped
    completions, judgements = [], []
    for i in range(prompts):
        text = "the fox is red and lives in the forest. " * max(1, int(lengths[i]) // 9)
        completions.append(
            {
                "prompt_id": f"p{i}",
                "prompt": [
                    {"role": "user", "content": f"question {i}: where does the fox live? {SCRIPT if i % 2 else ''}"}
                ],
                "completion": f"{text}{SCRIPT}" if loss == "kto" else text,
                "tokens": int(lengths[i]),
                "ended": bool(ended[i]),
                "reference": "The fox lives in the forest.",
            }
        )
        utility = float(preferences[i] + rng.normal(0, 0.3))
        # Perceived utility is 0.25 more than gold utility; whoever perceives takes the reference for what it is.
        scores = {"utility": utility, "reference_utility": 0.6, "correct": float(preferences[i] == 1)}
        scores |= {"perceived": utility + 0.25, "reference_perceived": 0.6}
        judgements.append({"prompt_id": f"p{i}", "preference": float(preferences[i]), "scores": scores})
    if state == "running":
        write_json(folder / "status.json", status | {"finished": None})
        lines = "".join(json.dumps(row) + "\n" for row in completions[: prompts // 2])
        (folder / "completions.jsonl").write_text(lines + '{"prompt_id": "p99", "prom', encoding="utf-8")
        return folder
    write_lines(folder / "completions.jsonl", completions)
    write_lines(folder / "judgements.jsonl", judgements)
    write_json(folder / "data_report.json", {"feedback": {"kind": "paired", "rows": 6}, "tokens": _data_report()})
    facts = [
        {"task": task, "metric": "acc", "doc_id": i, "value": float(rng.random() < base + 0.3 * win)}
        for task, base in (("sandbox_facts", 0.5), ("sandbox_arithmetic", 0.2))
        for i in range(prompts)
    ]
    write_lines(folder / "benchmarks.jsonl", facts)
    write_choices(folder, seed, prompts)
    _write_over_training(folder, settings.pop("at_steps", ()), steps, preferences, facts)
    guards = {"n": prompts, "mean_tokens": float(lengths.mean()), "share_capped": float(1 - ended.mean())}
    guards |= {"share_empty": 0.0, "repetition_4gram": 0.02}
    judged = {"judge": "gold_utility", "n": prompts, "win_rate": float(preferences.mean()), "means": {}}
    scores = {"head_to_head": judged, "benchmarks": {}, "guards": guards, "statistics": _question_set(win)}
    scores["implied_reward"] = write_implied_rewards(folder, loss, seed, **settings.pop("rewards", {}))
    write_json(folder / "scores.json", scores)
    stages = {"align": {"wall_seconds": 70.0, "cached": False}, "sft": {"wall_seconds": 30.0, "cached": True}}
    write_json(folder / "timing.json", {"stages": stages})
    data = {"kind": "paired", "rows": 600, "heldout_rows": 0, "dropped": {}, "truncated": {}}
    data |= {"used": used} if used else {}
    data |= {"parameters": {"total": parameters, "without_embeddings": parameters // 2}} if parameters else {}
    write_json(folder / "data.json", data | ({"warnings": warnings} if warnings else {}))
    write_json(folder / "environment.json", {"python": "3.11.9", "packages": {"torch": "2.13.0"}, "platform": "Linux"})
    write_json(folder / "status.json", status)
    return folder


def write_implied_rewards(
    folder: Path,
    loss: str,
    seed: int,
    n: int = 120,
    temperature: float = 2.0,
    length_bias: float = 0.3,
    memorised: float = 0.0,
    thumbs: bool = False,
) -> dict[str, Any]:
    """Implied rewards of ``n`` held-out, ``n`` trained and n / 2 mislabelled examples; returns what goes with them.

    A label is right with the probability that the sigmoid of the difference in gold utility (pairs) or of the utility
    itself (thumbs) gives; the reward is the utility times ``temperature``, and ``length_bias`` for each standard
    deviation (4) of length, which has nothing to do with utility. Mislabelled examples have the label turned round; the
    reward has learnt the turned label of a share ``memorised`` of them.
    """
    world, rng = np.random.default_rng(7), np.random.default_rng([seed, *loss.encode(), 8])
    rows = []
    for split, mislabelled, count in (("heldout", False, n), ("train", False, n), ("train", True, n // 2)):
        for number in range(count):
            sides = []
            for _ in range(1 if thumbs else 2):
                utility, tokens = float(world.normal()), int(np.clip(world.normal(20, 4), 5, 40))
                reward = temperature * utility + length_bias * (tokens - 20) / 4 + 0.05 * rng.normal()
                scores = {"utility": utility, "polite": float(world.random() < 0.5)}
                side = {"reward": reward, "log_prob": -2.0 * tokens, "tokens": tokens, "scores": scores}
                sides.append(side)
            margin = sides[0]["scores"]["utility"] - (0 if thumbs else sides[1]["scores"]["utility"])
            first = bool(world.random() < 1 / (1 + math.exp(-margin)))
            first ^= mislabelled
            example: dict[str, Any] = {
                "id": f"{split}{mislabelled}{number}",
                "split": split,
                "mislabelled": mislabelled,
            }
            learnt = mislabelled and rng.random() < memorised
            if thumbs:
                if learnt:
                    sides[0]["reward"] = 3.0 if first else -3.0
                example |= {"label": first, "completion": sides[0]}
            else:
                chosen, rejected = sides if first else sides[::-1]
                if learnt:
                    chosen["reward"] = rejected["reward"] + 3.0
                example |= {"chosen": chosen, "rejected": rejected}
            rows.append(example)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "implied_rewards.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    return {"declared": loss not in ("none", "sft"), "reference_point": 0.0 if thumbs else None, "examples": len(rows)}


def write_choices(folder: Path, seed: int, documents: int, temperature: float = 1.0, normalised: bool = False) -> None:
    """Documents of four choices, of which each is right with the probability that the policy's log-probabilities,
    divided by ``temperature``, give it among the others; choices of twice the length are told apart by acc_norm."""
    rng = np.random.default_rng([seed, 9])
    rows = []
    for number in range(documents):
        logits = rng.normal(0, 1.5, 4)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        right = int(rng.choice(4, p=probabilities))
        lengths = [10, 20, 10, 20] if normalised else [10, 10, 10, 10]
        said = temperature * logits * (np.array(lengths) if normalised else 1)
        row = {"task": "sandbox_facts", "doc_id": number, "right": right}
        rows.append({**row, "log_probs": [round(float(x), 4) for x in said], "characters": lengths})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "choices.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def _question_set(win: float) -> dict[str, Any]:
    values = {"win rate": win, "length-controlled win rate": win - 0.05}
    errors = {
        name: {"value": v, "standard_error": 0.02, "low": v - 0.04, "high": v + 0.04} for name, v in values.items()
    }
    published = [{"model": "alpaca-7b", "win rate": 0.026, "length-controlled win rate": None}]
    return {"set": "AlpacaEval 2", "scale": 100, "values": errors, "published": published, "notes": ["a planted <b>"]}


@cache
def _data_report() -> dict[str, Any]:
    """Of a little feedback, by the suite's own code."""
    user = ({"role": "user", "content": f"w1 {SCRIPT}"},)
    rows = [Paired(str(i), user, "w1 w2 " * (i + 1), "w3 w4", "planted") for i in range(6)]
    encoder = Encoder(tiny_tokenizer(), 32, 8)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, rows)
        tokenise_file(file, "paired", encoder, Path(folder), lambda done, total: None)
        report: dict[str, Any] = json.loads(json.dumps(data_report(Path(folder), encoder)))
    return report


def _write_over_training(
    folder: Path, at_steps: tuple[int, ...], last: int, preferences: np.ndarray, facts: list[dict[str, Any]]
) -> None:
    """At step 0 nothing is won and the KL is 0; both rise in proportion to the steps, the KL to 3 nats."""
    if not at_steps:
        return
    outcomes, answers = [], []
    for step in (*at_steps, last):
        at = {"step": step, "completions": 64 * step}
        for i, preference in enumerate(preferences):
            won = float(preference) if i < len(preferences) * step / last else 0.0
            row = {"prompt_id": f"p{i}", "tokens": 9, "ended": True, "kl": 3.0 * step / last, "preference": won}
            # Gold utility has its maximum at a KL of 1.5 nats; perceived utility goes on rising.
            gold = won * (1 - step / (1.5 * last))
            outcomes.append({**at, **row, "scores": {"utility": gold, "perceived": won}})
        answers += [{**at, **fact} for fact in facts]
    write_lines(folder / "over_training.jsonl", outcomes)
    write_lines(folder / "benchmarks_over_training.jsonl", answers)


def _metrics(loss: str, step: int, steps: int, rng: np.random.Generator) -> dict[str, Any]:
    done = 1 - math.exp(-3 * step / steps)
    good, bad = 0.4 * done + 0.05 * rng.normal(), -0.6 * done + 0.05 * rng.normal()
    row: dict[str, Any] = {"step": step, "completions": 64 * step, "loss": 0.7 - 0.2 * done, "learning_rate": 1e-3}
    if loss == "kto":
        raw = -0.1 * done + 0.05 * rng.normal()
        return row | {"rewards/desirable": good, "rewards/undesirable": bad, "kl_raw": raw, "kl": max(raw, 0.0)}
    if loss == "sft":
        return row | {"loss": 3 - 2 * done}
    return row | {"rewards/chosen": good, "rewards/rejected": bad, "rewards/margin": good - bad}


# Expected win rates. Planted: from base KTO beats DPO by 0.35; from SFT the two are the same.
TRUTH = {
    ("none", "base"): 0.10,
    ("sft", "base"): 0.45,
    ("dpo", "base"): 0.20,
    ("kto", "base"): 0.55,
    ("simpo", "base"): 0.45,
    ("none", "sft"): 0.42,
    ("sft", "sft"): 0.48,
    ("dpo", "sft"): 0.52,
    ("kto", "sft"): 0.52,
    ("simpo", "sft"): 0.50,
}


def write_sweep(results: Path, name: str = "planted", seeds: int = 3, prompts: int = 128) -> Path:
    """All of TRUTH over ``seeds``; one more run each that failed, was skipped and still runs; two trials of KTO."""
    sweep = results / name
    for (loss, start), win in TRUTH.items():
        for seed in range(seeds):
            rambles = {"tokens": 37.0, "capped": 0.25} if loss in ("none", "dpo") and start == "base" else {}
            warned = {"warnings": WARNINGS} if (loss, start, seed) == ("kto", "sft", 1) else {}
            watched = {"at_steps": (0, 10, 20)} if loss in ("dpo", "kto") else {}
            write_run(sweep, loss, start, seed, win=win, prompts=prompts, **rambles, **warned, **watched)
    for trial in range(2):
        labels = {"role": "trial", "trial": trial}
        write_run(sweep, "kto", "sft", 1000, prompts=prompts, hash_=f"trial{trial}", labels=labels, config=labels)
    write_run(sweep, "orpo", "sft", 0, state="failed", steps=6)
    write_run(sweep, "ipo", "sft", 0, state="skipped", steps=0)
    write_run(sweep, "kto", "sft", seeds, state="running", steps=25, planned=40)
    return sweep


def write_mixed(results: Path, name: str = "mixed", prompts: int = 32) -> Path:
    """Three settings and two losses that not all settings have; the first has two betas, at different seeds."""
    sweep = results / name
    first, second, third = (
        {"model": model, "feedback": feedback}
        for model, feedback in (
            ("sandbox_small", "sandbox"),
            ("meta_llama_3_8b_instruct", "ultrafeedback_binarized"),
            ("qwen2_5_7b", "kto_mix_14k"),
        )
    )
    write_run(sweep, "kto", "sft", 0, prompts=prompts, beta=0.1, hash_="a1", labels=first)
    write_run(sweep, "kto", "sft", 1, prompts=prompts, beta=0.3, hash_="a2", labels=first)
    write_run(sweep, "dpo", "sft", 0, prompts=prompts, hash_="a3", labels=first, at_steps=(0, 20))
    write_run(sweep, "kto", "sft", 0, prompts=prompts, beta=0.2, hash_="b1", labels=second, at_steps=(20,))
    write_run(sweep, "dpo", "sft", 0, prompts=prompts, steps=20, hash_="c1", labels=third)
    write_run(sweep, "dpo", "base", 1, prompts=prompts, steps=20, hash_="c2", labels=third)
    return sweep


TRIAL_BETAS = (0.1, 0.02, 0.5, 0.05)


def write_tuned(results: Path, name: str = "tuned", prompts: int = 64, finals: bool = True) -> Path:
    """Four trials of DPO and KTO, of which the fourth of DPO diverged; winners (DPO's trial 2, KTO's 0), two seeds."""
    sweep = results / name
    wins = {"dpo": (0.3, 0.35, 0.6, 0.0), "kto": (0.6, 0.5, 0.2, 0.3)}
    tuned = {"tune": {"trials": 4, "score": "preference"}, "space": {"beta": [0.02, 0.05, 0.1, 0.5]}}
    budget = {"budget": {"completions": None, "updates": None, "tokens": 5000, "flops": None}}
    for loss, rates in wins.items():
        for trial, (win, beta) in enumerate(zip(rates, TRIAL_BETAS, strict=True)):
            lost = (loss, trial) == ("dpo", 3)
            write_run(
                sweep, loss, "sft", 1000, win=win, prompts=prompts, beta=beta, hash_=f"{loss}t{trial}",
                state="failed" if lost else "done", labels={"role": "trial", "trial": trial},
                config={**tuned, **budget, "role": "trial", "trial": trial},
            )  # fmt: skip
    for seed in (0, 1) if finals else ():
        for loss, trial in (("dpo", 2), ("kto", 0)):
            used = {"completions": 640, "updates": 10 if loss == "dpo" else 7, "tokens": 4990, "flops": 1.5e9}
            write_run(
                sweep, loss, "sft", seed, win=0.5, prompts=prompts, beta=TRIAL_BETAS[trial], hash_=f"{loss}f{trial}",
                labels={"role": "final", "trial": trial}, used=used,
                config={**tuned, **budget, "role": "final", "trial": trial},
            )  # fmt: skip
        write_run(
            sweep, "none", "sft", seed, win=0.3, prompts=prompts, hash_="none", labels={"role": "final", "trial": None},
            config={**tuned, **budget, "role": "final"},
        )  # fmt: skip
    return sweep
