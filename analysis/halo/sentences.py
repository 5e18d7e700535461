"""The summary in words, made from what was measured, and what the definition means and cannot tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from analysis.findings import Finding
from analysis.halo.study import Study
from analysis.halo.tables import direction, intervals, ratio, slope_to_liked
from analysis.halo.value import LOSS_AVERSION
from analysis.halo.verdict import POINTS, REACH, VERSION

DEFINITION = [
    f"{VERSION}: a loss is a human-aware loss (HALO) if, up to a constant, it is the mean over the feedback of "
    "a · v(r − E[r]). Here a is +1 or −1 for each example, r is the implied reward, proportional to the log-ratio of "
    "policy and reference, E[r] is the mean reward under some distribution of completions, the reference point, and v "
    "is a human value: it never decreases, and it is concave for gains.",
    "(1) Where policy and reference are the same, all rewards are 0, so the loss cannot depend on the policy. Tried on "
    "64 random policies and 12 completions or pairs of 1 to 12 tokens.",
    "(2) Making a completion likelier under policy and reference by the same factor changes nothing.",
    "(3) For each class of completions one sign a makes minus the loss nondecreasing in the implied reward, whatever "
    f"the other completion, the batch or the value head say. Tried for rewards within ±{REACH:.0f}, on completions of "
    "one token.",
    "(4) With that sign, minus the loss is concave where the reward is above the reference point: in the log-ratio, as "
    "these versions define the reward, or at least in the ratio itself. Version 1 allowed any reward that orders "
    "completions alike. The theorem that PPO-Clip is a HALO needs this: A · min(q, 1 + ε) is concave in the ratio q, "
    "and convex in log q below the clip. So a yes that holds in the ratio only is marked.",
    "Where a loss depends on the difference of two rewards alone, one completion is the outcome and the other one the "
    "reference point, as in the paper's construction for DPO; else every class is an outcome of its own.",
]
LIMITS = [
    "The sign a is free. A loss that lowers what people liked and raises what they did not is a HALO just as well: "
    "read the column “Direction”.",
    "Nothing is asked of losses, neither convexity nor loss aversion: a HALO need not look like the Kahneman-Tversky "
    "curve, and most do not.",
    "Being a HALO does not make a loss better. The authors call it hard to say whether membership itself helps; the "
    "definition excludes losses that train well and includes some that do not.",
    "Membership is a matter of form. Conservative DPO is, in expectation, DPO on data of which some labels are "
    "swapped; as a loss of the labels that were given, it is not monotone. KTO without a reference stands on a "
    "reference that is uniform, and the test sees a loss without one. Offline PPO fails by its KL penalty alone, which "
    "raises undesirable completions once they are clipped; PPO-Clip by itself, of which the theorem speaks, passes.",
    "A yes is no proof: no counter-example was found among the completions, contexts and rewards that were tried. A no "
    "is a proof, up to rounding, since the counter-example is there to be checked.",
    "Rewards are those of single completions while everything else stands still. Training moves all of them at once, "
    "and what a loss ignores at its reference point it may attend to elsewhere.",
]


def findings(studies: Sequence[Study]) -> list[Finding]:
    """What the page says first."""
    return [finding for finding in (_membership(studies), _attention(studies), _aversion(studies)) if finding.sentences]


def _membership(studies: Sequence[Study]) -> Finding:
    strict = [study for study in studies if study.verdict.strict]
    ratio = [study for study in studies if study.verdict.halo and not study.verdict.strict]
    sentences = []
    if strict:
        sentences.append(f"HALOs: {_names(strict)}.")
    if ratio:
        sentences.append(
            f"HALOs only if the reward may be the ratio of probabilities, not its logarithm: {_names(ratio)}."
        )
    by_clause: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        if study.verdict.failed:
            by_clause[f"({study.verdict.failed.number}) {study.verdict.failed.title}"].append(study)
    sentences += [f"No HALO, by clause {clause}: {_names(by_clause[clause])}." for clause in sorted(by_clause)]
    points: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        if study.verdict.point != "none":
            points[POINTS[study.verdict.point]].append(study)
    sentences += [f"Reference point, {point}: {_names(found)}." for point, found in points.items()]
    wrong = [study for study in studies if _backwards(study)]
    if wrong:
        listed = "; ".join(f"{study.subject.title} ({direction(study)})" for study in wrong)
        sentences.append(f"Not in the direction of the feedback: {listed}.")
    return Finding("Which losses are HALOs?", sentences)


def _backwards(study: Study) -> bool:
    """Whether it raises what people disliked, or lowers what they liked."""
    if study.verdict.clauses[2].evidence:
        return False
    return any((sign > 0) == (role == study.disliked) for role, sign in study.verdict.signs.items())


def _attention(studies: Sequence[Study]) -> Finding:
    groups: dict[str, list[Study]] = defaultdict(list)
    for study in studies:
        words = [
            f"{role} completions {' and '.join(found)}"
            for role, drawn in study.curves.items()
            if (found := intervals(drawn.function, study.shapes[role]))
        ]
        groups["; ".join(words)].append(study)
    quiet = groups.pop("", [])
    sentences = [f"{_names(found)}: {words}." for words, found in groups.items()]
    if quiet:
        sentences.append(f"{_names(quiet)}: none within ±10.")
    return Finding("Which examples does each loss ignore?", sentences)


def _aversion(studies: Sequence[Study]) -> Finding:
    sentences = []
    kinked = [study for study in studies if abs(_at(study, 0) - 1) > 1e-3]
    if kinked:
        sentences.append(f"Losses weigh more or less than gains already at the reference point: {_ratios(kinked, 0)}.")
    smooth = [study for study in studies if study not in kinked]
    growing = [study for study in smooth if _at(study, 1) > 1.001]
    if growing:
        sentences.append(f"Loss aversion that appears away from it, at 1: {_ratios(growing, 1)}.")
    lesser = [study for study in smooth if _at(study, 1) < 0.999]
    if lesser:
        sentences.append(f"Gains weigh more than losses away from it, at 1: {_ratios(lesser, 1)}.")
    even = [study for study in smooth if abs(_at(study, 1) - 1) <= 1e-3]
    if even:
        sentences.append(f"As steep for losses as for gains: {_names(even)}.")
    if sentences:
        sentences.append(f"The median person: {LOSS_AVERSION} at every size.")
    classes = [study for study in studies if study.disliked and abs(slope_to_liked(study, study.disliked) - 1) > 1e-3]
    if classes:
        listed = _joined(f"{s.subject.title} {ratio(slope_to_liked(s, str(s.disliked)))}" for s in classes)
        sentences.append(
            f"Disliked completions pull more or less than liked ones at the reference point (times as much): {listed}."
        )
    return Finding("How averse is each loss to losses (liked completions)?", sentences)


def _at(study: Study, size: float) -> float:
    return study.shapes[study.liked].aversion[size]


def _ratios(studies: Iterable[Study], size: float) -> str:
    return _joined(f"{study.subject.title} {ratio(_at(study, size))}" for study in studies)


def _names(studies: Iterable[Study]) -> str:
    return _joined(study.subject.title for study in studies)


def _joined(names: Iterable[str]) -> str:
    """By semicolons where a name has a comma in it."""
    listed = list(names)
    return ("; " if any("," in name for name in listed) else ", ").join(listed)
