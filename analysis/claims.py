"""Which claims of the KTO paper hold, judged by tests of its published counts; no outcome is written here.

A claim is a set of contrasts with what it expects of each ("more", "at least", ...). All contrasts are tested, Holm's
correction is over the models (or fractions) of one contrast, as in the paper, and RULES turns each into a verdict:

    expected    significantly more   not significant                 significantly less
    more        holds                cannot be told                  contradicted
    less        contradicted         cannot be told                  holds
    at least    holds                holds only as "no sig. diff."   contradicted
    at most     contradicted         holds only as "no sig. diff."   holds
    same        contradicted         holds only as "no sig. diff."   contradicted

A claim as a whole has the worst verdict of its contrasts, in the order of VERDICTS.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from analysis import statistics, style, text
from analysis.estimates import rows_of
from analysis.evidence import Evidence
from analysis.registry import NoDataError, PaperEntry, Sheet
from analysis.statistics import Difference, one_proportion, two_bounded_means, two_proportions

ALPHA = 0.05
HOLDS, NO_DIFFERENCE = "holds", "holds only as “no significant difference”"
UNTOLD, CONTRADICTED = "cannot be told", "contradicted"
VERDICTS = (CONTRADICTED, UNTOLD, NO_DIFFERENCE, HOLDS)
Expected = Literal["more", "less", "at least", "at most", "same", ""]
RULES: dict[Expected, tuple[str, str, str]] = {
    "more": (HOLDS, UNTOLD, CONTRADICTED),
    "less": (CONTRADICTED, UNTOLD, HOLDS),
    "at least": (HOLDS, NO_DIFFERENCE, CONTRADICTED),
    "at most": (CONTRADICTED, NO_DIFFERENCE, HOLDS),
    "same": (CONTRADICTED, NO_DIFFERENCE, CONTRADICTED),
}
"""Verdict where the first is significantly more, not significantly different, significantly less."""
HALOS, OTHERS = ("dpo", "ppo"), ("slic", "csft")
"""Human-aware losses and others of the paper's first study, which had no KTO."""
KEPT = ("keep_desirable", "keep_undesirable")
ALL_ALIGNED = ("csft", "slic", "dpo", "ppo", "kto")


@dataclass(frozen=True)
class Test:
    """One contrast of one model. ``expected`` is empty where the claim says nothing about it: it is tested because
    Holm's family is all models."""

    contrast: str
    where: str
    gap: Difference
    expected: Expected
    unit: Literal["points", "tokens"] = "points"
    p_holm: float = float("nan")

    @property
    def verdict(self) -> str:
        """By RULES; empty where nothing is expected."""
        if not self.expected:
            return ""
        told = self.p_holm < ALPHA
        return RULES[self.expected][1 if not told else 0 if self.gap.value > 0 else 2]

    @property
    def words(self) -> str:
        """The difference with its interval and p-values."""
        scale, digits = (100, 1) if self.unit == "points" else (1, 0)
        low, high = text.number(self.gap.low, digits, scale), text.number(self.gap.high, digits, scale)
        p = text.p_value(self.p_holm)
        return (
            f"{self.where} {text.number(self.gap.value, digits, scale, sign=True)} {self.unit} [{low}, {high}], "
            f"adjusted p {p if p.startswith('<') else f'= {p}'}"
        )


@dataclass(frozen=True)
class Claim:
    """A claim in our words, and its tests."""

    key: str
    words: str
    tests: list[Test]

    @property
    def verdict(self) -> str:
        """The worst of its tests."""
        found = {test.verdict for test in self.tests}
        return next(verdict for verdict in VERDICTS if verdict in found)

    @property
    def details(self) -> list[tuple[str, str]]:
        """For each verdict, from the worst on, the tests that have it, as one text; by contrast."""
        found = []
        for verdict in VERDICTS:
            by_contrast: dict[str, list[str]] = {}
            for test in self.tests:
                if test.verdict == verdict:
                    by_contrast.setdefault(f"{test.contrast} ({test.expected} expected)", []).append(test.words)
            found += [(verdict, f"{contrast}: {'; '.join(words)}") for contrast, words in by_contrast.items()]
        return found


@dataclass(frozen=True)
class Runs:
    """The published judged runs."""

    table: pd.DataFrame

    def models(self, experiment: str = "scale") -> list[str]:
        """Their names, by family and size. Raises NoDataError if there are none."""
        if experiment not in self._models:
            raise NoDataError(f"the study has no runs of {experiment}")
        return self._models[experiment]

    @cached_property
    def _models(self) -> dict[str, list[str]]:
        ordered = self.table.drop_duplicates(["experiment", "name"]).sort_values(
            ["family", "parameters"], ascending=[False, True]
        )
        return {str(name): list(part["name"]) for name, part in ordered.groupby("experiment")}

    def family(self, name: str) -> str:
        """The family of a model."""
        return str(self.table.loc[self.table["name"] == name, "family"].iloc[0])

    def parameters(self, name: str) -> float:
        """The size of a model."""
        return float(self.table.loc[self.table["name"] == name, "parameters"].iloc[0])

    def one(
        self, name: str, loss: str, start: str = "base", experiment: str = "scale",
        desirable: float = 1.0, undesirable: float = 1.0, one_completion: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """A run. Raises NoDataError if the study has none such, or several."""
        key = (experiment, name, loss, start, desirable, undesirable, one_completion)
        found = self._by_key.get(key, [])
        if len(found) != 1:
            raise NoDataError(f"the study has {len(found)} runs of {loss} from {start} of {name} ({experiment})")
        return found[0]

    @cached_property
    def _by_key(self) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        columns = ("experiment", "name", "loss", "start", *KEPT, "one_completion_per_prompt")
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows_of(self.table):
            found.setdefault(tuple(row[column] for column in columns), []).append(row)
        return found

    def only(self, experiment: str, without: str = "") -> str:
        """The one model of an experiment whose name does not end ``without``. NoDataError unless there is one."""
        names = [name for name in self.models(experiment) if not without or not name.endswith(without)]
        if len(names) != 1:
            raise NoDataError(f"the study has {len(names)} models in {experiment}")
        return names[0]


def claims(evidence: Evidence) -> list[Claim]:
    """All claims that the published study has the runs for; none where it has none."""
    if evidence.published is None:
        return []
    runs = Runs(evidence.published.judged)
    found = []
    for make in (_by_scale, _lengths, _imbalance, _one_completion, _people):
        try:
            found += make(runs)
        except NoDataError:  # a study of something else
            continue
    return found


def contrast(
    runs: Runs, first: tuple[str, str], second: tuple[str, str], expected: dict[str, Expected], unit: str = "points"
) -> list[Test]:
    """First minus second, each (start, loss), for every model of the study by scale; Holm's family are the models."""
    tests = []
    for name in runs.models():
        one, other = (runs.one(name, loss, start) for start, loss in (first, second))
        tests.append(Test(f"{_name(first)} − {_name(second)}", name, _gap(one, other, unit), expected.get(name, ""),
                          "points" if unit == "points" else "tokens"))  # fmt: skip
    return adjusted(tests)


def adjusted(tests: Sequence[Test]) -> list[Test]:
    """The tests, with p-values adjusted for all of them."""
    p_values = statistics.holm([test.gap.p_value for test in tests])
    return [replace(test, p_holm=float(p)) for test, p in zip(tests, p_values, strict=True)]


def _gap(one: dict[str, Any], other: dict[str, Any], unit: str = "points") -> Difference:
    if unit == "points":
        return two_proportions(one["wins"], one["n"], other["wins"], other["n"])
    highest = max(one["max_tokens"], other["max_tokens"])
    return two_bounded_means(one["mean_tokens"], one["n"], other["mean_tokens"], other["n"], highest)


def _name(cell: tuple[str, str]) -> str:
    start, loss = cell
    if loss == "none":
        return style.start_name(start)
    return style.loss_name(loss) if start == "base" else f"{style.start_name(start)}+{style.loss_name(loss)}"


def _all(names: Iterable[str], expected: Expected) -> dict[str, Expected]:
    return dict.fromkeys(names, expected)


def _by_scale(runs: Runs) -> list[Claim]:
    """Claims (a) to (g), about Pythia and Llama models."""
    names = runs.models()
    large = [name for name in names if runs.family(name) == "Llama" and runs.parameters(name) >= 13e9]
    llamas = [name for name in names if runs.family(name) == "Llama"]
    if not llamas:
        raise NoDataError("the study has no Llama models by scale")
    up_to_7b = [name for name in names if runs.parameters(name) <= 7e9]
    rest = [name for name in names if name not in large]
    largest = max(llamas, key=runs.parameters)
    said = [name for name in llamas if runs.parameters(name) in (7e9, 30e9)]
    sft = ("sft", "none")
    each = [
        test
        for halo in HALOS
        for other in OTHERS
        for test in contrast(runs, ("sft", halo), ("sft", other), _all(names, "at least"))
    ]
    dpo_ppo = _all([n for n in names if n != largest], "same") | _all([largest], "more")
    aligned = [
        test for loss in HALOS + OTHERS for test in contrast(runs, ("sft", loss), sft, _all(up_to_7b, "at most"))
    ]
    others = [
        test
        for loss in ALL_ALIGNED
        if loss != "kto"
        for test in contrast(runs, ("base", loss), ("sft", loss), _all(large, "less"))
    ]
    return [
        Claim("a", "After SFT, human-aware losses (DPO, offline PPO) do at least as well as others (SLiC, conditional "
              "SFT) at every size.", each),
        Claim("a", "That gap, of the two kinds as a whole, is significant from 13B parameters on, and only there.",
              _joint(runs, _all(large, "more") | _all(rest, "same"))),
        *_half(runs, names, large),
        Claim("c", "Up to 7B parameters alignment adds next to nothing to SFT (said of the losses of the first study, "
              "before KTO).", aligned),
        Claim("c", "The same, if it were said of KTO, too.",
              contrast(runs, ("sft", "kto"), sft, _all(up_to_7b, "at most"))),
        Claim("d", "Offline PPO with made-up rewards does as well as DPO, except on the largest Llama, where DPO wins.",
              contrast(runs, ("sft", "dpo"), ("sft", "ppo"), dpo_ppo)),
        Claim("e", "After SFT, KTO does as well as DPO or better, at every size.",
              contrast(runs, ("sft", "kto"), ("sft", "dpo"), _all(names, "at least"))),
        Claim("f", "Without SFT, KTO beats DPO on every Llama.",
              contrast(runs, ("base", "kto"), ("base", "dpo"), _all(llamas, "more"))),
        Claim("f", "Of these, the gaps at 7B and 30B are significant.",
              contrast(runs, ("base", "kto"), ("base", "dpo"), _all(said, "more"))),
        Claim("g", "On the Llamas of 13B and 30B, KTO does without SFT as well as with it.",
              contrast(runs, ("base", "kto"), ("sft", "kto"), _all(large, "at least"))),
        Claim("g", "KTO is the only method of which that is true: all others lose without SFT there.", others),
    ]  # fmt: skip


def _joint(runs: Runs, expected: dict[str, Expected]) -> list[Test]:
    """Human-aware losses together against the others together, after SFT."""
    tests = []
    for name in runs.models():
        sums = []
        for losses in (HALOS, OTHERS):
            each = [runs.one(name, loss, "sft") for loss in losses]
            sums += [sum(run["wins"] for run in each), sum(run["n"] for run in each)]
        tests.append(Test("SFT+(DPO, PPO) − SFT+(SLiC, cond. SFT)", name, two_proportions(*sums), expected[name]))
    return adjusted(tests)


def _half(runs: Runs, names: list[str], large: list[str]) -> list[Claim]:
    """Claim (b), of win rates against one half; the family are all runs by scale."""
    aware = (*HALOS, "kto")
    tests = []
    for name in names:
        for start in ("base", "sft"):
            for loss in ("none", *ALL_ALIGNED):
                run = runs.one(name, loss, start)
                reaches = loss in aware and name in large
                expected: Expected = "at least" if reaches and start == "sft" else "" if reaches else "less"
                gap = one_proportion(run["wins"], run["n"])
                tests.append(Test(f"{_name((start, loss))} − 50%", name, gap, expected))
    tests = adjusted(tests)
    return [
        Claim("b", "With human-aware losses after SFT, the Llamas of 13B and 30B win about half of the time.",
              [replace(test, expected="" if test.expected == "less" else test.expected) for test in tests]),
        Claim("b", "No smaller model does, and no model with another loss.",
              [replace(test, expected="" if test.expected == "at least" else test.expected) for test in tests]),
    ]  # fmt: skip


def _lengths(runs: Runs) -> list[Claim]:
    """Claim (h), about mean lengths, whose spread is unknown: tests are conservative."""
    names = runs.models()
    longer = contrast(runs, ("base", "dpo"), ("sft", "none"), _all(names, "more"), "tokens")
    shorter = contrast(runs, ("base", "kto"), ("base", "dpo"), _all(names, "less"), "tokens")
    return [
        Claim("h", "DPO without SFT writes much longer than the SFT model.", longer),
        Claim("h", "KTO without SFT does not ramble as DPO does: it writes less.", shorter),
    ]


def _imbalance(runs: Runs) -> list[Claim]:
    """Leaving out desirable completions, against DPO on all data, without SFT and with it."""
    name = runs.only("imbalance")
    rows = runs.table[runs.table["experiment"] == "imbalance"]
    dpo, tests = runs.one(name, "dpo"), []
    for column, word in zip(KEPT, ("desirable", "undesirable"), strict=True):
        family = []
        for kept in sorted(share for share in rows[column].unique() if share < 1):
            run = runs.one(name, "kto", experiment="imbalance", **{word: kept})
            claimed: Expected = "more" if word == "desirable" and kept >= 0.1 else ""
            family.append(Test("KTO − DPO, both without SFT", f"{100 * kept:g}% {word} kept", _gap(run, dpo), claimed))
        tests.append(adjusted(family))
    tenth = runs.one(name, "kto", experiment="imbalance", desirable=0.1)
    after = Test(
        "KTO without SFT − SFT+DPO", "10% desirable kept", _gap(tenth, runs.one(name, "dpo", "sft")), "at least"
    )
    whole = Test("KTO on part − KTO on all data", "10% desirable kept", _gap(tenth, runs.one(name, "kto")), "at least")
    return [
        Claim(
            "i", f"Up to 90% of the desirable completions can be left out, and KTO still beats DPO ({name}).", tests[0]
        ),
        Claim(
            "i",
            "A stronger reading, which the paper does not make: KTO on a tenth of them is as good as DPO after SFT.",
            adjusted([after]),
        ),
        Claim("i", "Another one that it does not make: leaving them out costs KTO nothing.", adjusted([whole])),
    ]


def _one_completion(runs: Runs) -> list[Claim]:
    """KTO on all completions, and on one per prompt, against DPO."""
    experiment = "one_completion_per_prompt"
    name = runs.only(experiment, without="Instruct")
    dpo = runs.one(name, "dpo", experiment=experiment)
    everything = runs.one(name, "kto", experiment=experiment)
    one = runs.one(name, "kto", experiment=experiment, one_completion=True)
    tests = adjusted([
        Test("KTO − DPO", f"{name}, all completions", _gap(everything, dpo), "more"),
        Test("KTO − DPO", f"{name}, one completion per prompt for KTO", _gap(one, dpo), "more"),
    ])  # fmt: skip
    return [Claim("j", "On OpenAssistant KTO beats DPO, even with one completion per prompt.", tests)]


def _people(runs: Runs) -> list[Claim]:
    """The human evaluation."""
    name = runs.only("human_evaluation")
    one, other = (runs.one(name, loss, experiment="human_evaluation") for loss in ("kto", "dpo"))
    return [Claim("k", "People, too, prefer KTO's answers to the data's more often than DPO's.",
                  adjusted([Test("KTO − DPO, judged by people", name, _gap(one, other), "more")]))]  # fmt: skip


def make(evidence: Evidence) -> Sheet:
    """A row per test that a claim is about."""
    found = claims(evidence)
    tests = [(claim, test) for claim in found for test in claim.tests if test.expected]
    if not tests:
        raise NoDataError("the published study is not the KTO paper's, whose claims are tested")
    numbers = pd.DataFrame(
        [
            {
                "claim": claim.key, "words": claim.words, "contrast": test.contrast, "where": test.where,
                "unit": test.unit, "difference": test.gap.value, "low": test.gap.low, "high": test.gap.high,
                "n": test.gap.prompts, "p": test.gap.p_value, "p_holm": test.p_holm, "expected": test.expected,
                "verdict": test.verdict,
            }
            for claim, test in tests
        ]
    )  # fmt: skip
    shown = []
    for claim, test in tests:
        scale, digits = (100, 1) if test.unit == "points" else (1, 0)
        row = {"value": test.gap.value, "low": test.gap.low, "high": test.gap.high}
        shown.append({
            "Claim": claim.key, "Contrast": test.contrast, "Where": test.where, "Expected": test.expected,
            "Difference": f"{text.with_interval(row, digits=digits, scale=scale, sign=True)} {test.unit}",
            "n": f"{test.gap.prompts:.0f}", "p": text.p_value(test.gap.p_value), "p (Holm)": text.p_value(test.p_holm),
            "Verdict": test.verdict,
        })  # fmt: skip
    assert evidence.published is not None
    judges = ", ".join(sorted(evidence.published.judged["judge"].unique()))
    caption = (
        "Tests behind the verdicts: differences (first minus second) with 95% intervals, Newcombe's for win rates, "
        "Wilson's against 50%, and for lengths the widest possible; two-sided z-tests of independent runs, adjusted by "
        "Holm's method for all models or fractions of one contrast, those that the claim says nothing about included. "
        f"n: prompts of each run (both losses of a kind together: twice as many). Judges: {judges}. "
        f"Source: {evidence.published.citation}."
    )
    return Sheet(numbers, pd.DataFrame(shown), caption)


PAPER_TABLE = PaperEntry(order=10, title="Tests of the paper's claims", make=make)
