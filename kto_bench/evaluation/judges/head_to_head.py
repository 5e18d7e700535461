"""Head to head: our completions against the reference completions, through alpaca_eval's own annotator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from kto_bench.evaluation.errors import EvaluationError
from kto_bench.evaluation.judges.agreement import Verdict, noise, position_bias
from kto_bench.evaluation.judges.comparisons import Comparisons, instruction_of
from kto_bench.evaluation.judges.judge import Judge


def judge(
    rows: Sequence[dict[str, Any]],
    judge: Judge,
    folder: Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Judge the rows of completions.jsonl: (rows of judgements.jsonl in the same order, summary).

    A row holds ``preference``, that of our completion over the reference: 1.0, 0.5 for a tie, 0.0, or the mean over
    orders and repeats; identical texts tie without asking the judge (alpaca_eval's rule). ``scores`` holds the judge's
    scores of our completion, and those of the reference under the prefix ``reference_``. Of a model judge, or where
    prompts are judged more than once, ``asks`` holds each verdict. The summary is {"judge", "n", "win_rate", "means"}
    with ties counted as a half; of such judges also "position" and, with repeats, "noise" (kto_bench.evaluation.
    agreement), and of model judges the "account" of what they took.

    ``folder`` belongs to the caller; alpaca_eval's configuration and prompt template are left there, and a model
    judge's answers, which are kept beside it while they come. ``seed`` draws the order of the outputs, per prompt.
    ``say`` is told what judging will cost before it begins.

    Raises EvaluationError where rows lack an id or a reference or repeat an id, and where judging is incomplete: an
    answer that cannot be read, a missing answer, a judge that raises. There is no score then.
    """
    _check_rows(rows)
    verdicts, account = Comparisons(rows, judge, seed).annotated(folder, progress, say)
    by_prompt: dict[str, list[Verdict]] = {row["prompt_id"]: [] for row in rows}
    for verdict in verdicts:
        by_prompt[verdict.prompt_id].append(verdict)
    detailed = account is not None or judge.orders == "both" or judge.repeats > 1
    judgements = [
        {
            "prompt_id": row["prompt_id"],
            "preference": fmean(one.preference for one in by_prompt[row["prompt_id"]]),
            "scores": _scores(judge, instruction_of(row["prompt"]), row),
            **({"asks": [_plain(one) for one in by_prompt[row["prompt_id"]] if one.answer]} if detailed else {}),
        }
        for row in rows
    ]
    summary = _summary(judgements, judge)
    asked = [verdict for verdict in verdicts if verdict.answer]
    if detailed and asked:
        summary["position"] = position_bias(asked)
        if judge.repeats > 1:
            summary["noise"] = noise(asked, len(rows))
    if account is not None:
        summary["account"] = asdict(account)
    return judgements, summary


def _check_rows(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        raise EvaluationError("head to head: there are no completions to judge")
    missing = [row["prompt_id"] for row in rows if row.get("reference") is None]
    if missing:
        raise EvaluationError(
            f"head to head: {len(missing)} of {len(rows)} prompts have no reference completion, for example "
            f"{missing[:3]}"
        )
    repeated = [prompt_id for prompt_id, count in Counter(row["prompt_id"] for row in rows).items() if count > 1]
    if repeated:
        raise EvaluationError(
            f"head to head: {len(repeated)} prompt ids occur more than once, for example {repeated[:3]}"
        )


def _plain(verdict: Verdict) -> dict[str, Any]:
    return {key: value for key, value in asdict(verdict).items() if key != "prompt_id"}


def _scores(judge: Judge, instruction: str, row: dict[str, Any]) -> dict[str, float]:
    ours = judge.scores(instruction, row["completion"])
    reference = judge.scores(instruction, row["reference"])
    return {**ours, **{f"reference_{name}": value for name, value in reference.items()}}


def _summary(judgements: list[dict[str, Any]], judge: Judge) -> dict[str, Any]:
    n = len(judgements)
    names = dict.fromkeys(name for row in judgements for name in row["scores"])
    values = {name: [row["scores"][name] for row in judgements if name in row["scores"]] for name in names}
    return {
        "judge": judge.name,
        "n": n,
        "win_rate": sum(row["preference"] for row in judgements) / n,
        "means": {name: sum(of) / len(of) for name, of in values.items()},
    }
