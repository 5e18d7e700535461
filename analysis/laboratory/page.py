"""docs/findings.md: every question with its prediction, what was found, a figure and all contrasts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import get_args

import pandas as pd

from analysis import style
from analysis.laboratory.arms import Arms
from analysis.laboratory.family import Family
from analysis.laboratory.prediction import Verdict
from analysis.laboratory.question import Question
from kto_bench.results import Sweep

OPENING = """\
# Findings of the laboratory

Do alignment losses work because they model human irrationality? With real annotators that cannot be asked, since nobody
knows their utility. In the [sandbox](sandbox.md) it is known, and so are the [annotators](annotators.md) with their
biases. Each question below was a sweep; its records are in `results/reference/`, and this page is made from them:

```console
python -m analysis.laboratory            # this page and its figures, from the records
```

*Predicted* is what papers or common belief say, as each question tells. No sentence with a number is typed by hand.
Differences are paired by seed and prompt; intervals are 95% and cover the draw of both; p-values are adjusted (Holm) in
each list. *Cannot be told apart* is not *equal*: beside it stand the difference that such a study would
have found in 4 of 5 cases, and the seeds that would find one of the size seen, both at the first step of Holm's method.
Models have 0.05M to 0.15M parameters and the world has 430 words: nothing here is known to carry over to large models.
"""


def write(questions: list[tuple[Question, Sweep | None]], page: Path, figures: Path) -> None:
    """Write the page, and a PNG for each question into ``figures``, which lies below the page's folder.

    A question without a sweep is on the page as not yet run.
    """
    answered, sections = [], []
    for question, sweep in questions:
        if sweep is None:
            sections.append(_heading(question) + "\n*Not yet run.*\n")
            continue
        arms = Arms(sweep, question.factors)
        families, drawing = question.answer(arms)
        with style.settings():
            png, pdf = style.save(drawing.figure, figures, question.sweep)
        pdf.unlink()
        answered.append((question, families))
        sections.append(_section(question, sweep, families, drawing.caption, png.relative_to(page.parent).as_posix()))
    page.write_text("\n".join([OPENING, *_in_short(answered), *sections]), encoding="utf-8")


def _in_short(answered: list[tuple[Question, list[Family]]]) -> list[str]:
    """What was predicted and how it came, then what was found besides; nothing where no question is answered."""
    if not answered:
        return []
    findings = [(question, one) for question, families in answered for family in families for one in family.findings]
    counts = Counter(one.verdict for _, one in findings if one.verdict)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict))
    predicted = [(question, one) for question, one in findings if one.verdict]
    first = {question.title: one for question, one in reversed(predicted)}
    rows = [
        {
            "question": question.title if first[question.title] is one else "",
            "contrast": one.contrast.label,
            "measure": one.contrast.measure.noun,
            "predicted": one.expected,
            "found": one.contrast.shown,
            "verdict": f"**{one.verdict}**" if one.stands else one.verdict,
        }
        for question, one in predicted
    ]
    besides = [f"* {one.sentence}" for _, one in findings if one.stands and not one.verdict]
    parts = [f"## In short\n\nOf {len(rows)} predictions: {told}.\n", markdown(pd.DataFrame(rows)) + "\n"]
    return [*parts, "Found besides, where nothing was predicted:\n", "\n".join(besides) + "\n"] if besides else parts


def _section(question: Question, sweep: Sweep, families: list[Family], caption: str, image: str) -> str:
    found = "\n\n".join(
        f"*{family.title}* ({family.standing} of {len(family.contrasts)} contrasts differ from 0)\n\n"
        + "\n".join(f"* {finding.sentence}" for finding in family.findings)
        for family in families
    )
    table = pd.concat([family.table for family in families])
    return f"""\
{_heading(question)}
{_about(sweep)}

{found}

![{question.title}]({image})

{caption}

<details><summary>All contrasts</summary>

{markdown(table)}

</details>
"""


def _heading(question: Question) -> str:
    return f"""\
## {question.title}

*Expected.* {question.predicted}

*Run.* `kto-bench -m +sweeps={question.sweep.replace("_", "/", 1)}`
"""


def _about(sweep: Sweep) -> str:
    """Cells, seeds, hardware, time and commit, from the records."""
    states = Counter(record.state for record in sweep.records if record.state != "superseded")
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    made = [record.json("environment.json") for record in sweep.records]
    devices = sorted({str(one.get("device", "unknown")) for one in made})
    commits = sorted({str(one.get("commit", "unknown")).removesuffix("-dirty") for one in made})
    minutes = sweep.runs["wall_seconds"].sum() / 60
    seeds = sweep.runs["seed"].nunique()
    return (
        f"*Records.* {counts}; {seeds} seeds; {minutes:.0f} minutes of stages on {', '.join(devices)}; commit "
        f"{', '.join(commits)}."
    )


def markdown(table: pd.DataFrame) -> str:
    """A table of text."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)
