"""Tables: value functions in numbers, and verdicts with their counter-examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.halo.shape import Shape, describe
from analysis.halo.study import Study
from analysis.halo.value import STEP, WIDEST, ValueFunction, kahneman_tversky
from analysis.halo.verdict import POINTS, REACH, VERSION, Clause
from analysis.registry import NoDataError, Sheet
from analysis.text import MISSING, number

KAHNEMAN_TVERSKY = "Kahneman-Tversky"


def value_functions(studies: Sequence[Study]) -> Sheet:
    """One row per loss and class of completions, after one for people."""
    human = kahneman_tversky()
    numbers, display = [_numbers(KAHNEMAN_TVERSKY, human, describe(human))], []
    display.append(_shown(KAHNEMAN_TVERSKY, human, describe(human), float("nan")))
    for study in studies:
        for role, drawn in study.curves.items():
            shape = study.shapes[role]
            row = _numbers(study.subject.name, drawn.function, shape)
            row["slope_to_liked"] = slope_to_liked(study, role)
            numbers.append(row | {"held_constant": drawn.held_constant})
            display.append(_shown(study.subject.title, drawn.function, shape, row["slope_to_liked"]))
    caption = (
        "Value functions in numbers; losses | gains where these differ. A gain is a higher reward of what people "
        "liked, or a lower one of what they disliked. Per nat: implied reward of one nat of log-ratio (of a completion "
        "of 20 tokens; of one token for losses with a value head). Slope: per unit of implied reward, just beside the "
        "reference point. To liked: its size over that of what people liked. Loss aversion: slope at a loss over slope "
        "at a gain of the same size, for sizes near 0, 1 and 2; ∞ where gains count for nothing, a dash where nothing "
        f"does or the loss cannot be evaluated. Bend: for rewards within ±{REACH:.0f}. Curvature: second derivative at "
        f"a loss | gain of 1. Gradient vanishes: slope below 5% of the largest within ±{WIDEST:.0f}, or of the one at "
        "the reference point where slopes grow without end."
    )
    return Sheet(pd.DataFrame(numbers), pd.DataFrame(display), caption)


def verdicts(studies: Sequence[Study]) -> Sheet:
    """One row per loss."""
    numbers, display = [], []
    for study in studies:
        found = study.verdict
        clauses = {f"({clause.number})": clause_word(clause) for clause in found.clauses}
        numbers.append(
            {
                "loss": study.subject.name,
                "halo": found.halo,
                "strict": found.strict,
                **{f"clause_{clause.number}": clause_word(clause) for clause in found.clauses},
                "failed_clause": found.failed.number if found.failed else None,
                "reference_point": POINTS[found.point],
                "outcomes": " ".join(found.roles),
                "signs": " ".join(f"{sign:+d}" for sign in found.signs.values()),
                "concave_in": found.space or "",
                "counter_example": found.failed.evidence if found.failed else "",
            }
        )
        verdict = "yes" if found.strict else "yes, in the ratio" if found.halo else "no"
        display.append(
            {
                "Loss": study.subject.title,
                "HALO": verdict,
                **clauses,
                "Reference point": POINTS[found.point],
                "Direction": direction(study),
            }
        )
    caption = (
        f"Is it a HALO? {VERSION}. (1) Constant in the policy where policy = reference; (2) relative to the reference "
        "model; (3) monotone in the implied reward, with one sign per class; (4) concave in gains. “Yes, in the "
        "ratio”: (4) fails in the reward as these versions define it, the log-ratio, and holds in the ratio of "
        "probabilities. “Not asked”: what is not monotone has no gains."
    )
    return Sheet(pd.DataFrame(numbers).astype({"failed_clause": "Int64"}), pd.DataFrame(display), caption)


def counter_examples(studies: Sequence[Study]) -> Sheet:
    """One row per clause that fails, for every loss. Raises NoDataError where all losses are HALOs."""
    rows = [
        (study, clause) for study in studies for clause in study.verdict.clauses if clause.asked and not clause.holds
    ]
    if not rows:
        raise NoDataError("every loss is a HALO")
    numbers = [{"loss": s.subject.name, "clause": c.number, "counter_example": c.evidence} for s, c in rows]
    display = [
        {"Loss": s.subject.title, "Clause": f"({c.number}) {c.title}", "Counter-example": c.evidence} for s, c in rows
    ]
    caption = (
        "Counter-examples to the clauses that fail: completions, log-probabilities in nats and losses with which each "
        "can be checked by hand. Signed numbers are implied rewards, unless they are said to be nats."
    )
    return Sheet(pd.DataFrame(numbers), pd.DataFrame(display), caption)


def clause_word(clause: Clause) -> str:
    """ "holds", "fails" or "not asked"."""
    return "not asked" if not clause.asked else "holds" if clause.holds else "fails"


def direction(study: Study) -> str:
    """ "raises chosen" and so on; what the sign of each class means."""
    if study.verdict.clauses[2].evidence:
        return MISSING
    return ", ".join(f"{'raises' if sign > 0 else 'lowers'} {role}" for role, sign in study.verdict.signs.items())


def slope_to_liked(study: Study, role: str) -> float:
    """|slope at the reference point| over that of the class that people liked, both on the side of gains."""
    liked = abs(study.shapes[study.liked].slope_gain)
    own = abs(study.shapes[role].slope_gain)
    return own / liked if liked else (float("inf") if own else float("nan"))


def intervals(function: ValueFunction, shape: Shape) -> list[str]:
    """Where the gradient vanishes, in words: "above +4.36 (well learned)"."""
    found = []
    for low, high in shape.vanishing:
        begins, ends = low <= -WIDEST + 2 * STEP, high >= min(WIDEST, shape.largest) - 2 * STEP
        if begins and ends:
            found.append("everywhere, while all else is at the reference point")
        elif ends:
            found.append(
                f"above {number(low, 2, sign=True)} ({'hard or mislabelled' if function.disliked else 'learned'})"
            )
        elif begins:
            found.append(
                f"below {number(high, 2, sign=True)} ({'learned' if function.disliked else 'hard or mislabelled'})"
            )
        else:
            found.append(f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)} (the loss is content)")
    return found


def _numbers(name: str, function: ValueFunction, shape: Shape) -> dict[str, Any]:
    return {
        "loss": name,
        "class": function.role,
        "unit": function.unit,
        "reward_per_nat": function.scale,
        "slope_loss": shape.slope_loss,
        "slope_gain": shape.slope_gain,
        "slope_to_liked": float("nan"),
        **{f"aversion_{size:.0f}": ratio for size, ratio in shape.aversion.items()},
        "in_losses": shape.in_losses,
        "in_gains": shape.in_gains,
        "curvature_loss_1": shape.curvature[1.0][0],
        "curvature_gain_1": shape.curvature[1.0][1],
        "vanishing": " ".join(f"[{low:.2f}, {high:.2f}]" for low, high in shape.vanishing),
        "steepest": shape.steepest,
        "still_steeper": shape.still_steeper,
        "largest": shape.largest,
        "held_constant": False,
    }


def _shown(title: str, function: ValueFunction, shape: Shape, to_liked: float) -> dict[str, str]:
    human = function.role == "gamble"
    sides = [number(slope, 3) for slope in (shape.slope_loss, shape.slope_gain)]
    bends = [number(bend, 3) for bend in shape.curvature[1.0]]
    return {
        "Loss": title,
        "Class": MISSING if human else function.role,
        "Per nat": MISSING if human else (number(function.scale, 3) if function.logged else "1 (nats)"),
        "Slope": "∞" if human else " | ".join(dict.fromkeys(sides)),
        "To liked": ratio(to_liked),
        "Loss aversion": ", ".join(ratio(each) for each in shape.aversion.values()),
        "Bend": " | ".join(dict.fromkeys((shape.in_losses, shape.in_gains))),
        "Gradient vanishes": "; ".join(intervals(function, shape)) or "nowhere",
        "Curvature": " | ".join(dict.fromkeys(bends)),
    }


def ratio(value: float) -> str:
    """ "2.25", "∞" or a dash."""
    return "∞" if math.isinf(value) else number(value, 2)
