"""Which losses bear wrong labels?"""

from __future__ import annotations

from analysis.implied_rewards import examples
from analysis.laboratory import dose
from analysis.laboratory.arms import PER_CENT, TOKENS, UTILITY, Arm, Arms, Measure
from analysis.laboratory.family import Family
from analysis.laboratory.prediction import Expected
from analysis.laboratory.question import Question
from analysis.registry import Drawing

LEARNT = Measure("right", "share of wrong labels learnt", " points", PER_CENT, 1, table="labels")
"""Training examples whose label was turned round and whose implied reward sides with the wrong label."""
LOSSES = {"dpo": "DPO", "ipo": "IPO", "kto": "KTO", "simpo": "SimPO"}


def _predicted(loss: str) -> Expected | None:
    """That DPO suffers more than KTO; of other losses the paper says nothing."""
    return "higher" if loss == "dpo" else None


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """What wrong labels cost each loss, and whether they cost KTO less."""
    shares = arms.values("noise")

    def cost(loss: str) -> tuple[Arm, Arm]:
        return {"loss": loss, "noise": shares[0]}, {"loss": loss, "noise": shares[-1]}

    trained = examples(arms.sweep).query("split == 'train'").rename(columns={"example": "prompt_id"})
    arms.tables["labels"] = arms.with_factors(trained)
    lost = Family(arms, "What wrong labels cost each loss")
    for loss, name in LOSSES.items():
        told = f"{name} on clean feedback", f"{name} with {shares[-1]:.0%} of the labels turned round"
        lost.compare(UTILITY, *cost(loss), *told)
    against = Family(arms, "Whether that is less for KTO")
    for loss, name in LOSSES.items():
        if loss != "kto":
            more, less = (f"is {than} for {name} than for KTO" for than in ("more", "less"))
            against.interact(UTILITY, cost(loss), cost("kto"), "What wrong labels cost", more, less, _predicted(loss))
    learnt = Family(arms, f"Wrong labels that were learnt, where {shares[-1]:.0%} are wrong")

    def wrong(loss: str) -> Arm:
        return {"loss": loss, "noise": shares[-1], "mislabelled": True}

    for loss, name in LOSSES.items():
        if loss != "kto":
            learnt.compare(LEARNT, wrong(loss), wrong("kto"), name, "KTO", _predicted(loss))
    lines = [dose.Line.of_loss(loss) for loss in LOSSES]
    names = [f"{share:.0%}" for share in shares]
    panels = [
        dose.Panel(arms, measure, "noise", shares, "", "labels turned round", names) for measure in (UTILITY, TOKENS)
    ]
    panels.append(
        dose.Panel(arms, LEARNT, "noise", shares[1:], "", "labels turned round", names[1:], arm={"mislabelled": True})
    )
    what = (
        "Each loss by the share of wrong labels. Learnt: the implied reward of a training example sides with its label."
    )
    return [lost, against, learnt], Drawing(dose.draw(panels, lines), dose.caption(what, arms))


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
