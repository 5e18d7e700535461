"""docs/findings.md: every question with its prediction, what was found, a figure and all contrasts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from analysis import style
from analysis.laboratory.arms import Arms
from analysis.laboratory.family import Family
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

No sentence below that holds a number is typed by hand. Differences are paired by seed and prompt; intervals are 95% and
cover the draw of both; p-values are adjusted (Holm) for all contrasts of one list. *Cannot be told apart* is not
*equal*: beside it stand the difference that such a study would have found in 4 of 5 cases, and the seeds that would
find one of the size seen, both at the first step of Holm's method. Models have 0.05M to 0.15M parameters and the world
has 430 words: nothing here is known to carry over to large models.
"""


def write(questions: list[tuple[Question, Sweep | None]], page: Path, figures: Path) -> None:
    """Write the page, and a PNG for each question into ``figures``, which lies below the page's folder.

    A question without a sweep is on the page as not yet run.
    """
    parts = [OPENING]
    for question, sweep in questions:
        if sweep is None:
            parts.append(_heading(question) + "\n*Not yet run.*\n")
            continue
        arms = Arms(sweep, question.factors)
        families, drawing = question.answer(arms)
        with style.settings():
            png, pdf = style.save(drawing.figure, figures, question.sweep)
        pdf.unlink()
        parts.append(_section(question, sweep, families, drawing.caption, png.relative_to(page.parent).as_posix()))
    page.write_text("\n".join(parts), encoding="utf-8")


def _section(question: Question, sweep: Sweep, families: list[Family], caption: str, image: str) -> str:
    found = "\n\n".join(
        f"*{family.title}* ({family.standing} of {len(family.contrasts)} contrasts differ from 0)\n\n"
        + "\n".join(f"* {sentence}" for sentence in family.sentences)
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
