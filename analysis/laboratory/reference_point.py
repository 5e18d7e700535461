"""What if the annotator's reference point is not the loss's?"""

from __future__ import annotations

from analysis import text
from analysis.laboratory import dose
from analysis.laboratory.arms import TOKENS, UTILITY, WIN_RATE, Arm, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing

LOSSES = {"kto": "KTO", "bco": "BCO"}
USUAL = "the average of all completions"
CALLED = {
    "prompt_average": "the prompt's average",
    "last_seen": "the completion seen last",
    "policy_average": USUAL,
}


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """Every reference point against the average of all completions."""
    fixed = sorted(arms.select({"point": "status_quo"})["status_quo"].unique())

    def status_quo(value: float) -> str:
        return f"a status quo of {text.number(value, 1)}"

    arms.derive(
        "reference", lambda row: status_quo(row["status_quo"]) if row["point"] == "status_quo" else CALLED[row["point"]]
    )

    def at(loss: str, reference: str) -> Arm:
        return {"loss": loss, "reference": reference}

    moving = [called for called in CALLED.values() if called in arms.values("reference")]
    others = [*map(status_quo, fixed), *(one for one in moving if one != USUAL)]
    points = Family(arms, "Thumbs from other reference points than the average")
    for loss, name in LOSSES.items():
        for other in others:
            points.compare(
                UTILITY, at(loss, other), at(loss, USUAL), f"{name} on thumbs given from {other}", f"from {USUAL}"
            )
    leads = Family(arms, "Whether BCO bears them better than KTO")
    for other in map(status_quo, (fixed[0], fixed[-1])):
        theirs, usual = ((at("kto", reference), at("bco", reference)) for reference in (other, USUAL))
        leads.interact(UTILITY, theirs, usual, f"From {USUAL} to {other}, the lead of KTO over BCO", expected="lower")
    there = [*map(status_quo, fixed), *moving]
    names = [
        one.removeprefix("a ").removeprefix("the ").replace(" of ", "\nof ").replace("seen", "\nseen") for one in there
    ]
    panels = [
        dose.Panel(arms, measure, "reference", there, "", "the annotator's reference point", names, joined=False)
        for measure in (UTILITY, WIN_RATE, TOKENS)
    ]
    lines = [dose.Line.of_loss(loss) for loss in LOSSES]
    what = (
        "Losses of binary feedback, by the reference point of the annotator who gave the thumbs. The thumbs of all "
        "annotators agree with gold utility equally often."
    )
    return [points, leads], Drawing(dose.draw(panels, lines, columns=1), dose.caption(what, arms))


QUESTION = Question(
    order=80,
    title="What if the annotator's reference point is another?",
    sweep="laboratory_reference_point",
    predicted="KTO's reference point is the policy's average reward. From another one the thumbs are mostly down, "
    "or mostly up; BCO's authors blame KTO's reference point for where it trails (Jung et al. 2024, arXiv "
    "2404.04656).",
    factors={
        "loss": "loss.name",
        "point": "feedback.annotator.reference_point",
        "status_quo": "feedback.annotator.status_quo",
    },
    answer=answer,
)
