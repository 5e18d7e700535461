"""Does it matter to a loss whether the feedback is rational, if it is equally informative?"""

from __future__ import annotations

from analysis.laboratory import dose
from analysis.laboratory.arms import PERCEIVED, UTILITY, WIN_RATE, Arm, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing

LOSSES = {"dpo": "DPO", "kto": "KTO", "simpo": "SimPO"}
RATIONAL, HUMAN, NOISY = "rational", "median_human", "loss_neutral_noisy"
BIASED = {"length_biased": "the length-biased annotator", "sycophantic": "the sycophantic annotator"}


def _on(loss: str, annotator: str) -> Arm:
    return {"loss": loss, "annotator": annotator}


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """Each loss under each annotator against the rational one; and whether that depends on the loss."""
    human = Family(arms, "Feedback of the median human against equally informative rational feedback")
    for loss, name in LOSSES.items():
        told = f"{name} on human feedback", f"{name} on rational feedback"
        human.compare(UTILITY, _on(loss, HUMAN), _on(loss, RATIONAL), *told)
    for loss in ("dpo", "simpo"):
        then, before = ((_on("kto", who), _on(loss, who)) for who in (HUMAN, RATIONAL))
        what = f"From rational to human feedback, KTO's lead over {LOSSES[loss]}"
        human.interact(UTILITY, then, before, what, expected="higher")
    families = [human]
    for biased, called in BIASED.items():
        cost = Family(arms, f"Feedback of {called} against equally informative rational feedback")
        for loss, name in LOSSES.items():
            told = f"{name} on feedback of {called}", f"{name} on rational feedback"
            cost.compare(UTILITY, _on(loss, biased), _on(loss, RATIONAL), *told)
        for loss in ("dpo", "simpo"):
            then, before = ((_on("kto", who), _on(loss, who)) for who in (biased, RATIONAL))
            what = f"From rational feedback to that of {called}, KTO's lead over {LOSSES[loss]}"
            cost.interact(UTILITY, then, before, what)
        eyes = Family(arms, f"What {called} sees, and what is true")
        for loss, name in LOSSES.items():
            aligned, start = _on(loss, biased), _on("none", biased)
            eyes.compare(PERCEIVED, aligned, start, f"In the eyes of {called}, {name}", "its start")
            eyes.compare(UTILITY, aligned, start, f"In truth, {name} on feedback of {called}", "its start")
        families += [cost, eyes]
    there = [name for name in (RATIONAL, NOISY, HUMAN, *BIASED) if name in arms.values("annotator")]
    lines = [dose.Line.of_loss(loss) for loss in ("none", *LOSSES)]
    names = [name.replace("_", "\n") for name in there]
    panels = [
        dose.Panel(arms, measure, "annotator", there, title, "annotator", names, joined=False)
        for measure, title in ((UTILITY, "In truth"), (PERCEIVED, "In the annotator's eyes"), (WIN_RATE, "Wins"))
    ]
    what = "Each loss by who gave the feedback; all annotators agree with gold utility about equally often."
    return families, Drawing(dose.draw(panels, lines, columns=2), dose.caption(what, arms))


QUESTION = Question(
    order=10,
    title="Does a loss need human irrationality?",
    sweep="laboratory_annotators",
    predicted="If losses such as KTO work because they model how people value, their lead should be larger on "
    "feedback of people with those biases than on equally informative feedback without them. That is a reading of "
    "Ethayarajh et al. (2024, section 3); their paper does not test it.",
    factors={"loss": "loss.name", "annotator": "feedback.annotator.name"},
    answer=answer,
)
