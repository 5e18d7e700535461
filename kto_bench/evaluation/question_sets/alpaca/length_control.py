"""Win rates that take the length of answers out of a judge's preferences.

Dubois et al. 2024, "Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators" (arXiv 2404.04475),
equation 2: the preference for a model m over the baseline b on instruction x is

    q(m > b | x) = logistic(theta_m + phi_m tanh((len m - len b) / std) + psi_m gamma_x),

and the length-controlled win rate is its mean over x with the length term set to 0. Formula, weights and fit are
alpaca_eval's own (``alpaca_eval.metrics.glm_winrate``): a logistic regression with an L1 penalty that 5-fold
cross-validation chooses, kept from degenerating by two gamed baselines (a verbose and a concise one) at a fifth of the
weight. Two things differ. Rows are matched with difficulties by their place in the question set, not by their place in
a table. And the error is that of the whole procedure: alpaca_eval's ``lc_standard_error`` is only the spread of the
*predictions* over instructions, as if the three coefficients were known.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.random import Generator

from kto_bench.component import ConfigError
from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.question_sets.published_file import PublishedFile
from kto_bench.evaluation.quiet import quiet

LengthControl = Literal["length_controlled_v1", "length_controlled_minimal"]
"""alpaca_eval's names: v1 is the leaderboards'; minimal knows no difficulties and needs no published file."""
GAMED = PublishedFile("tatsu-lab/alpaca_eval", "df_gamed.csv", "evaluation.prompts.gamed_path")
"""The preferences for the two gamed baselines, with ``instruction_difficulty``: gamma_x of the equation."""
GAMED_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")
REPLICATES = 200
FOLDS = 5
"""Of the cross-validation that chooses the penalty, in alpaca_eval."""
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Fit:
    """A length-controlled win rate in [0, 1] with its coefficients, and the inverse penalty that was chosen.

    Where all preferences are 0, or all 1, that is the win rate, and there are no coefficients.
    """

    win_rate: float
    weights: dict[str, float]
    inverse_penalty: float


def gamed_baselines(path: Path | None) -> pd.DataFrame:
    """The rows of ``GAMED``. Raises ConfigError where the file is absent or another."""
    file = GAMED.locate(path)
    table = pd.read_csv(file)
    missing = [column for column in GAMED_COLUMNS if column not in table]
    if missing:
        raise ConfigError(f"{GAMED.field}: {file} lacks the columns {missing}; give a copy of {GAMED.filename}")
    return table[list(GAMED_COLUMNS)]


def fit(
    frame: pd.DataFrame, control: LengthControl, gamed: pd.DataFrame | None, inverse_penalty: float | None = None
) -> Fit:
    """The length-controlled win rate of ``frame``: columns index (place in the question set), preference (for the
    model, in [0, 1]; NaN counts in the lengths and the mean of predictions only), length_model and length_baseline.

    ``gamed`` is needed by v1 only. With ``inverse_penalty`` there is no cross-validation.
    """
    return _Regression(frame, control, gamed).solve(inverse_penalty)


def replicates(
    frame: pd.DataFrame,
    control: LengthControl,
    gamed: pd.DataFrame | None,
    inverse_penalty: float,
    rng: Generator,
    count: int,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(count,) length-controlled win rates of as many draws of the prompts, with replacement.

    What belongs to a prompt (its preference, its lengths, the gamed baselines' preferences) is drawn together, and the
    regression is fitted anew. The unit of length and the penalty stay those of the whole set.
    """
    regression = _Regression(frame, control, gamed)
    draws = rng.multinomial(len(frame), np.full(len(frame), 1 / len(frame)), size=count)
    return np.array([regression.solve(inverse_penalty, drawn).win_rate for drawn in draws])


class _Regression:
    """The design of the regression, from which win rates of any draw of the prompts follow."""

    def __init__(self, frame: pd.DataFrame, control: LengthControl, gamed: pd.DataFrame | None) -> None:
        self._info = _glm().GLM_INFO[control]
        difference = frame["length_baseline"] - frame["length_model"]
        spread = difference.std()  # 0 or NaN: all differ alike, so nothing can be said about length
        rows = pd.DataFrame(
            {
                "index": frame["index"].to_numpy(),
                "preference": frame["preference"].to_numpy(dtype=float),
                "std_delta_len": (difference / spread).to_numpy() if spread > 0 else 0.0,
                "not_gamed_baseline": True,
            }
        )
        train = rows
        if control == "length_controlled_v1":
            assert gamed is not None, "length_controlled_v1 needs the gamed baselines"
            difficulty = gamed.drop_duplicates("index").set_index("index")["instruction_difficulty"]
            rows["instruction_difficulty"] = difficulty.reindex(rows["index"]).to_numpy()
            unknown = rows.loc[rows["instruction_difficulty"].isna(), "index"].tolist()
            if unknown:
                raise EvaluationError(
                    f"length control: no difficulty is known of {len(unknown)} questions: {unknown[:5]}"
                )
            train = pd.concat([gamed, rows], ignore_index=True)
        share = self._info["regularize_to_baseline_lambda"] or 0.0
        ours = train["not_gamed_baseline"].astype(bool)
        neutral = rows.assign(std_delta_len=0.0)
        design, self._neutral = _glm().make_dmatrix_for_model(train, neutral, formula=self._info["formula"])
        judged = design["preference"].notna()
        self._design = design[judged]
        self._weights = (ours.astype(float) + share / 2 * (~ours).astype(float))[judged]  # two gamed baselines
        self._asked, self._places = frame["index"].to_numpy(), train.loc[judged, "index"]

    def solve(self, inverse_penalty: float | None, drawn: Counts | None = None) -> Fit:
        """``drawn`` says how often each prompt of the frame was drawn; None: once. Others stay as they are."""
        of_prompt = np.ones(len(self._asked)) if drawn is None else drawn.astype(float)
        counts = self._places.map(pd.Series(of_prompt, index=self._asked)).fillna(1.0)
        weights = self._weights * counts
        preferences = self._design["preference"][weights > 0]
        if (preferences == 0).all() or (preferences == 1).all():
            # Liblinear finds one class only, and gives up with coefficients of 0: a win rate of a half.
            return Fit(float(preferences.iloc[0]), {}, inverse_penalty or 1.0)
        if inverse_penalty is None and len(preferences) < FOLDS:
            raise EvaluationError(
                f"length control: {len(preferences)} judged questions are too few, since the penalty is chosen by "
                f"{FOLDS}-fold cross-validation; choose evaluation.prompts.length_control=null"
            )
        with _sklearn():
            model = _glm().fit_LogisticRegressionCV(
                self._design,
                "preference",
                sample_weight=weights,
                **(self._info["kwargs"] if inverse_penalty is None else {"n_splits": 0, "C": inverse_penalty}),
            )
            predicted = model.predict_proba(self._neutral)[:, 1]
            chosen = float(np.ravel(model.C_)[0]) if inverse_penalty is None else inverse_penalty
        coefficients = dict(zip(self._neutral.columns, map(float, model.coef_[0]), strict=True))
        return Fit(float(np.average(predicted, weights=of_prompt)), coefficients, chosen)


@functools.cache
def _glm() -> Any:
    with quiet():
        from alpaca_eval.metrics import glm_winrate
    return glm_winrate


@contextmanager
def _sklearn() -> Iterator[None]:
    """alpaca_eval switches a global setting of scikit-learn and is warned of much; neither leaves this function."""
    import sklearn

    with warnings.catch_warnings(), sklearn.config_context():
        warnings.simplefilter("ignore")
        yield
