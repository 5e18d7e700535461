"""AlpacaEval's win rates of a set of judged answers, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kto_bench.evaluation.question_sets.alpaca import length_control
from kto_bench.evaluation.question_sets.alpaca.length_control import LengthControl
from kto_bench.evaluation.question_sets.question_set import estimate, mean_over_prompts
from kto_bench.evaluation.quiet import quiet
from kto_bench.seeds import derive


def win_rates(frame: pd.DataFrame, control: LengthControl | None, gamed_path: Path | None = None) -> dict[str, Any]:
    """{"values": raw and length-controlled win rate, "counts": ..., "mean characters": ..., "fit": ...}.

    ``frame`` has a row per question: index (its place in the set), preference (for the model, in [0, 1]; NaN where a
    published annotation is missing), length_model and length_baseline in characters. Intervals are percentiles of a
    bootstrap over questions; for the length-controlled win rate each replicate fits the regression anew.
    """
    with quiet():
        from alpaca_eval.metrics import get_winrate

        theirs = get_winrate(frame.assign(preference=frame["preference"] + 1.0))
    judged = frame["preference"].dropna().to_numpy()
    values = {"win rate": mean_over_prompts(judged, _rng("win rate"))}
    found: dict[str, Any] = {
        "values": values,
        "counts": {
            **{name: int(theirs[name]) for name in ("n_wins", "n_wins_base", "n_draws", "n_total")},
            "discrete win rate": float(theirs["discrete_win_rate"]) / 100,
        },
        "mean characters": float(frame["length_model"].mean()),
    }
    if control is not None:
        gamed = length_control.gamed_baselines(gamed_path) if control == "length_controlled_v1" else None
        fit = length_control.fit(frame, control, gamed)
        count, rng = length_control.REPLICATES, _rng(control)
        replicates = length_control.replicates(frame, control, gamed, fit.inverse_penalty, rng, count)
        values["length-controlled win rate"] = estimate(fit.win_rate, replicates)
        found["fit"] = {"name": control, "weights": fit.weights, "inverse_penalty": fit.inverse_penalty}
    return found


def from_annotations(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The frame for ``win_rates`` from annotations as alpaca_eval publishes them, in the order of the question set.

    A preference is 1 for the baseline, 2 for the model, in between where it is weighted; 0 was once a tie.
    """
    preferences = pd.Series([row.get("preference") for row in rows], dtype=float)
    return pd.DataFrame(
        {
            "index": range(len(rows)),
            "preference": preferences.replace({0.0: 1.5}) - 1.0,
            "length_model": [len(row["output_2"]) for row in rows],
            "length_baseline": [len(row["output_1"]) for row in rows],
        }
    )


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(derive(0, "alpaca eval", name))
