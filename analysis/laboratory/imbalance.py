"""Does a class weight make up for desirable examples that are missing?"""

from __future__ import annotations

from analysis.laboratory import dose
from analysis.laboratory.arms import TOKENS, UTILITY, WIN_RATE, Arm, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """Every share of desirable examples, with equal and with corrected weights, against all of them."""
    arms.derive("weights", lambda row: "equal" if row["weight"] == 1 else "corrected")
    shares = arms.values("kept")

    def kept(share: float, weights: str) -> Arm:
        return {"kept": share, "weights": weights}

    family = Family(arms, "KTO with a part of the desirable examples")
    for share in shares[:-1]:
        weight = arms.select(kept(share, "corrected"))["weight"].iloc[0]
        some = f"KTO with {share:.0%} of the desirable examples and the weight {weight:.3g}"
        family.compare(UTILITY, kept(share, "corrected"), kept(share, "equal"), some, "with equal weights", "higher")
        family.compare(
            UTILITY, kept(share, "corrected"), kept(shares[-1], "corrected"), some, "with all of them", "equal"
        )
    lines = [
        dose.Line({"weights": "corrected"}, "weight that makes up for it", "#D55E00", "s"),
        dose.Line({"weights": "equal"}, "equal weights", "#6b6b6b", "o", "--"),
    ]
    names = [f"{share:.0%}" for share in shares]
    panels = [
        dose.Panel(arms, measure, "kept", shares, "", "desirable examples kept", names)
        for measure in (UTILITY, WIN_RATE, TOKENS)
    ]
    what = "KTO after SFT, by the share of desirable examples that it is trained on."
    return [family], Drawing(dose.draw(panels, lines), dose.caption(what, arms))


QUESTION = Question(
    order=50,
    title="Does a weight make up for missing desirable examples?",
    sweep="laboratory_imbalance",
    predicted="With lambda_D n_D = 1 to 4/3 lambda_U n_U, KTO works with one desirable example in ten (Ethayarajh "
    "et al. 2024, version 1, Figure 6; what their counts support is on the page of `kto-bench-report kto_paper`).",
    factors={"kept": "feedback.keep_desirable", "weight": "loss.desirable_weight"},
    answer=answer,
)
