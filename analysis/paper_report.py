"""``kto-bench-report kto_paper``: figures, tables and claims of a published study, and their part of a sweep's page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from analysis import page
from analysis.claims import VERDICTS, Claim, claims
from analysis.drawers import Plan, figures
from analysis.evidence import Evidence
from analysis.registry import discover
from kto_bench.published import Published


@dataclass(frozen=True)
class Parts:
    """What a page shows of a paper: figures and tables that it has something for, claims, and what to keep in mind."""

    name: str
    title: str
    citation: str
    figures: list[page.Shown]
    tables: list[page.Shown]
    claims: list[Claim]
    caveats: list[str]

    @property
    def summary(self) -> list[str]:
        """How many claims have which verdict, and which."""
        if not self.claims:
            shown = {"figure": len(self.figures), "table": len(self.tables)}
            counts = " and ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in shown.items())
            return [f"{counts} of published numbers."]
        tests = sum(bool(test.expected) for claim in self.claims for test in claim.tests)
        sentences = [f"{len(self.claims)} claims were tested, by {tests} comparisons of published counts."]
        for verdict in reversed(VERDICTS):
            found = [claim for claim in self.claims if claim.verdict == verdict]
            if found:
                listed = " ".join(f"({claim.key}) {claim.words}" for claim in found)
                sentences.append(f"{verdict[0].upper()}{verdict[1:]}: {listed}")
        return sentences


def parts(evidence: Evidence, out: Path, progress: page.Progress) -> Parts:
    """Draw all figures and tables of papers that ``evidence`` has something for, into ``out``."""
    plans = [Plan(name, entry.title, partial(entry.make, evidence)) for name, entry in discover("PAPER_FIGURE").items()]
    drawn = figures(plans, out / "figures", progress)
    tables = [
        page.table(name, entry.title, partial(entry.make, evidence), out / "tables", progress)
        for name, entry in discover("PAPER_TABLE").items()
    ]
    study = evidence.published
    return Parts(
        evidence.name,
        study.title if study else "",
        study.citation if study else "",
        [shown for shown in drawn if not shown.skipped],
        [shown for shown in tables if not shown.skipped],
        claims(evidence),
        study.caveats if study else [],
    )


def build(published: Published, out: Path, progress: page.Progress = lambda message: None) -> Path:
    """Write ``figures/``, ``tables/`` and ``index.html`` of a published study under ``out``; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    paper = parts(Evidence(published=published), out, progress)
    progress("writing the page")
    path = out / "index.html"
    path.write_text(page.templates().get_template("published.html.jinja").render(paper=paper), encoding="utf-8")
    return path
