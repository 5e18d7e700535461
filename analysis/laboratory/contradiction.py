"""Whom does a loss serve where two crowds want opposite things?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.laboratory import dose
from analysis.laboratory.arms import PER_CENT, UTILITY, Arm, Arms, Measure
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing
from kto_bench.results import RecordError

LOSSES = {"dpo": "DPO", "kto": "KTO", "simpo": "SimPO"}
MAJORITY = Measure("majority", "utility to the majority")
MINORITY = Measure("minority", "utility to the minority")
SERVED = Measure("served", "share of disputes decided for the majority", " points", PER_CENT, 1, table="disputes")
PREDICTED = "predicted"
"""The factor ``loss`` of the rows that state what theorem 4.3 says of DPO."""


def disputes(arms: Arms) -> pd.DataFrame:
    """One row per run and held-out pair of whose completions the crowds prefer different ones.

    ``served``: 1 where the policy gives the majority's completion the higher log-probability, else 0. For every run of
    DPO there is a second row, whose ``loss`` is PREDICTED, with what its optimum would do (theorem 4.3): it prefers the
    minority's completion where p^(1 / beta) pi_ref(majority's) < (1 - p)^(1 / beta) pi_ref(minority's).
    """
    table = arms.with_factors(arms.sweep.implied_rewards)
    missing = {"majority", "minority", "reference_log_prob"} - set(table.columns)
    if table.empty or missing:
        raise RecordError(f"sweep {arms.sweep.name!r}: implied rewards without {', '.join(missing) or 'any row'}")
    values = ["majority", "minority", "log_prob", "reference_log_prob"]
    pairs = table[table["split"] == "heldout"].pivot(
        index=["run", "seed", "example", *arms.factors], columns="side", values=values
    )
    lead = {value: (pairs[value, "chosen"] - pairs[value, "rejected"]).to_numpy(dtype=float) for value in values}
    disputed = lead["majority"] * lead["minority"] < 0
    rows = pairs.index.to_frame(index=False).rename(columns={"example": "prompt_id"})
    side = np.sign(lead["majority"])
    rows["served"] = (side * lead["log_prob"] > 0).astype(float)
    rows["reference"] = side * lead["reference_log_prob"]
    rows = rows[disputed]
    dpo = rows[rows["loss"] == "dpo"]
    share, beta = dpo["share"].astype(float), dpo["beta"].astype(float)
    optimum = np.log(share / (1 - share)) / beta + dpo["reference"] > 0
    return pd.concat([rows, dpo.assign(loss=PREDICTED, served=optimum.astype(float))], ignore_index=True)


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """Utility to either crowd as the majority shrinks, and disputes against what the theorem predicts."""
    arms.tables["disputes"] = disputes(arms)
    shares = arms.values("share")
    close, clear = shares[0], shares[-1]

    def at(loss: str, share: float) -> Arm:
        return {"loss": loss, "share": share}

    shrinking = Family(arms, "A clear majority against a close one")
    for loss, name in LOSSES.items():
        told = f"{name} with a majority of {clear:.0%}", f"with one of {close:.0%}"
        shrinking.compare(MAJORITY, at(loss, clear), at(loss, close), *told)
        shrinking.compare(MINORITY, at(loss, clear), at(loss, close), *told)
    between = Family(arms, "KTO against DPO where the majority is close")
    for measure in (MAJORITY, MINORITY, UTILITY):
        between.compare(measure, at("kto", close), at("dpo", close), f"With a majority of {close:.0%}, KTO", "DPO")
    theorem = Family(arms, "Disputes against the theorem")
    for share in (close, clear):
        when = f"With a majority of {share:.0%}"
        theorem.compare(SERVED, at("kto", share), at("dpo", share), f"{when}, KTO", "DPO", expected="higher")
        theorem.compare(
            SERVED, at("dpo", share), at(PREDICTED, share), f"{when}, DPO", "DPO's optimum (theorem 4.3)", "equal"
        )
    losses = [dose.Line.of_loss(loss) for loss in ("none", *LOSSES)]
    optimum = dose.Line({"loss": PREDICTED}, "DPO's optimum (theorem 4.3)", "#0072B2", "^", ":")
    names = [f"{share:.0%}" for share in shares]
    shown = {MAJORITY: losses, MINORITY: losses, SERVED: [*losses, optimum]}
    panels = [
        dose.Panel(arms, measure, "share", shares, "", "the majority's share", names, lines=lines)
        for measure, lines in shown.items()
    ]
    what = (
        "Policies by the share of prompts that the majority answers. Disputes are held-out pairs of which the crowds "
        "prefer different completions."
    )
    return [shrinking, between, theorem], Drawing(dose.draw(panels, [*losses, optimum]), dose.caption(what, arms))


QUESTION = Question(
    order=40,
    title="Whom does a loss serve where two crowds want opposite things?",
    sweep="laboratory_contradiction",
    predicted="Theorem 4.3 of Ethayarajh et al. (2024, version 4): where p^(1/beta) pi_ref(y_a) < (1-p)^(1/beta) "
    "pi_ref(y_b), DPO's optimum puts more mass on what the minority of 1-p prefers; KTO's puts all on the "
    "majority's.",
    factors={"loss": "loss.name", "share": "feedback.annotator.majority_share", "beta": "loss.beta"},
    answer=answer,
)
