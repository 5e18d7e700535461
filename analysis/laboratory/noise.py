"""Which losses bear wrong labels?"""

from __future__ import annotations

from analysis.laboratory import dose
from analysis.laboratory.arms import TOKENS, UTILITY, WIN_RATE, Arm, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing

LOSSES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "simpo": "SimPO"}


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """What wrong labels cost each loss, and whether they cost KTO less."""
    shares = arms.values("noise")

    def cost(loss: str) -> tuple[Arm, Arm]:
        return {"loss": loss, "noise": shares[0]}, {"loss": loss, "noise": shares[-1]}

    lost = Family(arms, "What wrong labels cost each loss")
    for loss, name in LOSSES.items():
        told = f"{name} on clean feedback", f"{name} with {shares[-1]:.0%} of the labels turned round"
        lost.compare(UTILITY, *cost(loss), *told)
    against = Family(arms, "Whether that is less for KTO")
    for loss, name in LOSSES.items():
        if loss != "kto":
            more, less = (f"is {than} for {name} than for KTO" for than in ("more", "less"))
            against.interact(UTILITY, cost(loss), cost("kto"), "What wrong labels cost", more, less)
    lines = [dose.Line.of_loss(loss) for loss in LOSSES]
    names = [f"{share:.0%}" for share in shares]
    panels = [
        dose.Panel(arms, measure, "noise", shares, "", "labels turned round", names)
        for measure in (UTILITY, WIN_RATE, TOKENS)
    ]
    return [lost, against], Drawing(
        dose.draw(panels, lines), dose.caption("Each loss by the share of wrong labels.", arms)
    )


QUESTION = Question(
    order=30,
    title="Which losses bear wrong labels?",
    sweep="laboratory_noise",
    predicted="KTO's gradient vanishes for examples whose reward is far from the reference point, so it should "
    "ignore what cannot be learnt, wrong labels among it, and suffer less than DPO (Ethayarajh et al. 2024, "
    "proposition 4.1).",
    factors={"loss": "loss.name", "noise": "feedback.label_noise"},
    answer=answer,
)
