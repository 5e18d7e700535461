"""Which losses can do without SFT, by size and pretraining of the base model?"""

from __future__ import annotations

from analysis.laboratory import dose
from analysis.laboratory.arms import TOKENS, UTILITY, Arm, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.prediction import Expected
from analysis.laboratory.question import Question
from analysis.registry import Drawing

LOSSES = {"dpo": "DPO", "kto": "KTO"}


def _cost(loss: str, **where: object) -> tuple[Arm, Arm]:
    return {"loss": loss, "start": "sft", **where}, {"loss": loss, "start": "base", **where}


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """The cost of skipping SFT per loss, and whether it changes with pretraining and size."""
    amounts, models = arms.values("pretraining"), sorted(arms.values("model"), reverse=True)
    least, most = amounts[0], amounts[-1]
    skipping = Family(arms, "With SFT and without, over all sizes and amounts of pretraining")
    for loss, name in LOSSES.items():
        expected: Expected | None = "equal" if loss == "kto" else None
        skipping.compare(UTILITY, *_cost(loss), f"{name} after SFT", f"{name} from the base model", expected)
    more, less = "is more for DPO than for KTO", "is less for DPO than for KTO"
    skipping.interact(UTILITY, _cost("dpo"), _cost("kto"), "What skipping SFT costs", more, less, "higher")
    for number, when in ((1, "Without SFT"), (0, "After SFT")):
        expected = "higher" if when == "Without SFT" else None
        skipping.compare(UTILITY, _cost("kto")[number], _cost("dpo")[number], f"{when}, KTO", "DPO", expected)
    skipping.compare(TOKENS, _cost("dpo")[1], _cost("kto")[1], "Without SFT, DPO's output", "KTO's", "higher")
    base = Family(arms, "Whether the cost of skipping depends on the base model")
    for loss, name in LOSSES.items():
        costs = _cost(loss, pretraining=most), _cost(loss, pretraining=least)
        span = f"From {least / 1e6:g}M to {most / 1e6:g}M tokens of pretraining"
        base.interact(UTILITY, *costs, f"{span}, {name}'s cost of skipping", expected="lower")
        costs = _cost(loss, model=models[-1]), _cost(loss, model=models[0])
        base.interact(UTILITY, *costs, f"From {models[0]} to {models[-1]}, {name}'s cost of skipping", expected="lower")
    lines = [dose.Line.of_loss(loss, start) for loss in ("none", *LOSSES) for start in ("base", "sft")]
    names = [f"{amount / 1e6:g}M" for amount in amounts]
    panels = [
        dose.Panel(arms, measure, "pretraining", amounts, model, "tokens of pretraining", names, {"model": model})
        for measure in (UTILITY, TOKENS)
        for model in models
    ]
    what = "Gold utility and length of the output with SFT and without it, by pretraining and size."
    return [skipping, base], Drawing(dose.draw(panels, lines, columns=2), dose.caption(what, arms))


QUESTION = Question(
    order=60,
    title="Which losses can do without SFT?",
    sweep="laboratory_sft_skip",
    predicted="KTO can skip SFT when the pretrained model is good enough; DPO without SFT grows long (Ethayarajh et"
    " al. 2024, section 4, from Llama-13B up). So the cost of skipping should be smaller for KTO, and fall with "
    "size and pretraining.",
    factors={
        "loss": "loss.name",
        "start": "start.name",
        "model": "model.name",
        "pretraining": "model.pretrain.tokens",
    },
    answer=answer,
)
