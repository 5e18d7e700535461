"""Offline, semi-online and online feedback, and losses that are to make offline feedback as good."""

from __future__ import annotations

from analysis.laboratory import dose
from analysis.laboratory.arms import TOKENS, UTILITY, WIN_RATE, Arm, Arms
from analysis.laboratory.family import Family
from analysis.laboratory.question import Question
from analysis.registry import Drawing

PLAIN = {"dpo": "DPO", "kto": "KTO"}
HUMANLINE = {"dpo": "humanline_dpo", "kto": "humanline_kto"}


def answer(arms: Arms) -> tuple[list[Family], Drawing]:
    """Fresh against offline completions for each loss, and the humanline variants offline against the plain online."""
    rounds = arms.values("rounds")
    offline, online = rounds[0], rounds[-1]

    def at(loss: str, count: int) -> Arm:
        return {"loss": loss, "rounds": count}

    def freshness(loss: str) -> tuple[Arm, Arm]:
        return at(loss, online), at(loss, offline)

    losses = {**PLAIN, **{humanline: f"humanline {PLAIN[plain]}" for plain, humanline in HUMANLINE.items()}}
    fresh = Family(arms, "Fresh completions against offline ones")
    for loss, name in losses.items():
        told = f"{name[0].upper()}{name[1:]} with fresh completions in {online} rounds", f"{name} offline"
        fresh.compare(UTILITY, *freshness(loss), *told, expected="higher" if loss in PLAIN else None)
    variants = Family(arms, "Humanline against plain losses")
    for plain, humanline in HUMANLINE.items():
        name = PLAIN[plain]
        told = f"Offline, humanline {name}", f"plain {name}"
        variants.compare(UTILITY, at(humanline, offline), at(plain, offline), *told, expected="higher")
        told = f"Humanline {name} offline", f"plain {name} in {online} rounds"
        variants.compare(UTILITY, at(humanline, offline), at(plain, online), *told, expected="equal")
        more, less = (f"is {than} for plain than for humanline {name}" for than in ("more", "less"))
        variants.interact(UTILITY, freshness(plain), freshness(humanline), "What fresh completions gain", more, less)
    lines = [dose.Line.of_loss(loss) for loss in losses]
    panels = [dose.Panel(arms, measure, "rounds", rounds, "", "rounds") for measure in (UTILITY, WIN_RATE, TOKENS)]
    what = (
        "Each loss by how fresh its completions are: rounds of generate, annotate and align, with the same prompts, "
        "updates and annotator; one round is offline."
    )
    return [fresh, variants], Drawing(dose.draw(panels, lines), dose.caption(what, arms))


QUESTION = Question(
    order=70,
    title="Offline, online, or humanline?",
    sweep="laboratory_freshness",
    predicted="Online feedback is better than offline for DPO and KTO, and their humanline variants match it "
    "offline (Humanline, arXiv 2509.24207: online is 1.4 and 1.3 times as good on AlpacaEval).",
    factors={"loss": "loss.name", "rounds": "feedback.rounds"},
    answer=answer,
)
