"""Should the weights of the loss match the loss aversion of the annotator?"""

from __future__ import annotations

from analysis.laboratory import dose
from analysis.laboratory.arms import TOKENS, UTILITY, WIN_RATE, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing

LOOKS = (("#56B4E9", "o", "-"), ("#D55E00", "s", "--"), ("#332288", "D", ":"))


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """Matching and lighter against equal weights by annotator, and whether an effect depends on the annotator."""
    aversions, weights = arms.values("aversion"), arms.values("weight")
    averse, lowest, highest = [one for one in aversions if one != 1], weights[0], weights[-1]
    matching = Family(arms, "Weights that match the annotator, and lighter ones")
    for one in averse:
        told = f"For an annotator whose losses weigh {one:g} times, KTO with the matching weight", "with equal weights"
        matching.compare(
            UTILITY, {"aversion": one, "weight": one}, {"aversion": one, "weight": 1.0}, *told, expected="lower"
        )
        effects = [
            ({"aversion": aversion, "weight": highest}, {"aversion": aversion, "weight": 1.0})
            for aversion in (one, 1.0)
        ]
        what = f"From an annotator of lambda 1 to one of {one:g}, the effect of the weight {highest:g}"
        lighter = f"For an annotator whose losses weigh {one:g} times, KTO with undesirable_weight {lowest:g}"
        matching.compare(
            UTILITY, {"aversion": one, "weight": lowest}, {"aversion": one, "weight": 1.0}, lighter, told[1], "higher"
        )
        matching.interact(UTILITY, effects[0], effects[1], what, "rises", "falls")
    alone = Family(arms, "Weights and annotators, each over all values of the other")
    for weight in (one for one in weights if one != 1):
        told = f"Over all annotators, KTO with undesirable_weight {weight:.3g}", "with 1"
        alone.compare(UTILITY, {"weight": weight}, {"weight": 1.0}, *told)
    for one in averse:
        told = f"Over all weights, KTO on thumbs of an annotator with lambda {one:g}", "on those of one with lambda 1"
        alone.compare(UTILITY, {"aversion": one}, {"aversion": 1.0}, *told)
    lines = [
        dose.Line({"aversion": value}, f"annotator's loss aversion {value:g}", *look)
        for value, look in zip(aversions, LOOKS, strict=False)
    ]
    names = [f"{weight:g}" for weight in weights]
    panels = [
        dose.Panel(arms, measure, "weight", weights, "", "undesirable_weight of the loss", names)
        for measure in (UTILITY, WIN_RATE, TOKENS)
    ]
    what = (
        "KTO on thumbs, by the weight of undesirable examples in the loss (desirable_weight is 1) and the annotator's "
        "own loss aversion. The thumbs of all annotators agree with gold utility equally often."
    )
    return [matching, alone], Drawing(dose.draw(panels, lines), dose.caption(what, arms))


QUESTION = Question(
    order=20,
    title="Should the weights match the annotator's loss aversion?",
    sweep="laboratory_loss_aversion",
    predicted="KTO's weights stand where Kahneman and Tversky have loss aversion, so one might set "
    "undesirable_weight to the annotator's own, 2.25 for the median human. The paper advises the opposite: the "
    "desirable side should weigh as much as the other, or up to 1.5 times as much, since benchmarks reward gains "
    "(Ethayarajh et al. 2024, section 4.2). The thumbs of who dreads losses are mostly down, so that asks for a weight "
    "below 1.",
    factors={"aversion": "feedback.annotator.loss_aversion", "weight": "loss.undesirable_weight"},
    answer=answer,
)
